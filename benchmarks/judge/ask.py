"""Other questions to the judge about drafts that were gathered, and what their answers tell.

Each is asked in rows behind the draft's, whose keys and values are there from the first one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from typer import Option

from benchmarks.judge import verdicts
from benchmarks.judge.gather import Gatherer
from benchmarks.judge.lines import Line, read, samples
from benchmarks.report import RESULTS, say, write_results
from parse_runtime.calibration.collect import Samples
from parse_runtime.weights.source import open_model

ASKED = {"right": "Is your answer right?", "correct": "Correct?"}
"""In a turn of the user's, by name; none is longer than the default, for which there is room."""
BARE = "\n\nCorrect? Yes or No:"
"""In no turn at all: the chat template's own tokens are more than the question's."""
LENGTH = 64
"""Of the drafts, as judge-gather makes them."""


def suffixes(pair: Gatherer) -> dict[str, list[int]]:
    """The tokens of each question."""
    chat, encode = pair.text.chat, pair.text.tokenizer.encode
    found = {name: encode(chat.judge_suffix("", text)) for name, text in ASKED.items()}
    return {**found, "bare": encode(BARE)}


def ask(pair: Gatherer, line: Line) -> dict[str, list[float]]:
    """By question, the log-odds of yes at each cut of a draft."""
    prompt = pair.text.tokenizer.encode(pair.text.chat.prompt(line["prompt"]))
    tokens = [*prompt, *line["draft"]["tokens"]]
    cuts = [len(prompt) + cut for cut in line["cuts"]]
    pair.judge.read(0, tokens)
    found = {}
    for name, suffix in suffixes(pair).items():
        # One row of the draft again: a pass has some.
        _, ends = pair.judge.verify(0, tokens[-1:], suffix, cuts, len(tokens) - 1)
        odds = pair.judge.log_odds(ends, *pair.words).tolist()
        found[name] = [round(value, 4) for value in odds]
    return found


def answered(samples: Samples, log_odds: Sequence[Sequence[float]]) -> Samples:
    """The same drafts, by another question's answers."""
    drafts = []
    for draft, odds in zip(samples.drafts, log_odds, strict=True):
        evidence = draft.evidence.copy()
        evidence[:, 0] = odds
        drafts.append(replace(draft, evidence=evidence))
    return Samples(drafts)


def areas(samples: Samples, tokens: int) -> dict[str, Any]:
    """Of the question's answer alone, and with all other evidence."""
    by = verdicts.by_evidence(samples)
    return {"tokens": tokens, **{name: by[name] for name in ("judge alone", "all")}}


def run(
    model: Annotated[str, Option(help="Target, as of foundryc capture.")],
    draft: Annotated[str, Option(help="Its draft model, of the same tokenizer.")],
    drafts: Annotated[Path, Option(help="What judge-gather has written.", exists=True)],
    answers: Annotated[Path, Option(help="JSON lines, of which known ones are not asked again.")],
    questions: Annotated[int, Option(help="How many drafts.")] = 200,
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE", help="Results, as JSON.")
    ] = RESULTS / "parse_judge.json",
) -> None:  # fmt: skip
    """Ask other questions about gathered drafts on a CPU; areas by question."""
    torch.set_num_threads(1)
    lines = read(drafts)[:questions]
    said = {line["prompt"]: line for line in read(answers)} if answers.exists() else {}
    with torch.inference_mode():
        pair = Gatherer(open_model(model), open_model(draft), "bfloat16", LENGTH)
        for number, line in enumerate(lines, start=1):
            if line["prompt"] not in said:
                said[line["prompt"]] = {"prompt": line["prompt"], "log_odds": ask(pair, line)}
                with answers.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(said[line["prompt"]]) + "\n")
                say(f"{number} of {len(lines)}")
    found = samples(lines, pair.text.tokenizer)
    # The question that the drafts were gathered with, and none.
    rows = {"default": areas(found, len(pair.suffix))}
    rows["none"] = {"tokens": 0, "all": verdicts.by_evidence(found)["without the judge"]}
    for name, suffix in suffixes(pair).items():
        odds = [said[line["prompt"]]["log_odds"][name] for line in lines]
        rows[name] = areas(answered(found, odds), len(suffix))
    file = json.loads(output.read_text()) if output.exists() else {}
    write_results(output, {**file, "prompts": {"questions": len(lines), **rows}})
