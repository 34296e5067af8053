"""What a fit of the questions that ship makes of whole drafts of other questions, such as code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from benchmarks.judge import pair, replay, verdicts
from benchmarks.judge.gather import STRIDE
from benchmarks.judge.lines import Line, evidence, read, samples
from benchmarks.judge.units import BATCHES, costs
from benchmarks.report import RESULTS, write_results
from parse_runtime.calibration.calibrate import calibrated
from parse_runtime.calibration.collect import Draft, Samples
from parse_runtime.calibration.fit import Numbers, auc_interval
from parse_runtime.calibration.fitted import JUDGE, Fitted
from parse_runtime.calibration.interval import share
from parse_runtime.engine.judge import stride_cuts
from parse_runtime.engine.rules import Rules
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.weights.source import open_model

UNASKED = Rules(judge_prompt="")


def run(
    fitted: Annotated[Path, Option(help="Drafts that are fitted to, by judge-gather.")],
    drafts: Annotated[Path, Option(help="Drafts that are judged, by judge-gather.")],
    model: Annotated[str, Option(help="The target, for its tokenizer.")],
    units: Annotated[Path, Option(help="What judge-units has written.", exists=True)],
    name: Annotated[str, Option(help="What the drafts are of, in the results.")] = "code",
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE", help="Results, as JSON.")
    ] = RESULTS / "parse_judge.json",
) -> None:  # fmt: skip
    """Judge whole drafts of other questions without a question to the judge; PARSE by that."""
    tokenizer = open_model(model).text.tokenizer
    known = samples(read(fitted), tokenizer)
    fit = calibrated(known, UNASKED, "", verdicts.WRONG_KEPT)
    lines = read(drafts)
    found = samples(lines, tokenizer)
    whole = whole_drafts(lines, tokenizer, found)
    score = fit.score.whole or fit.score
    scores = np.asarray([score.verdict(row) for row in whole.evidence])
    right, groups = whole.right, whole.groups
    kept = scores >= fit.threshold
    stays = np.where(kept, [draft.cuts[-1] for draft in found.drafts], 0)[None]
    methods = pair.by_method(lines, found, stays, asks=False)
    measured = json.loads(units.read_text())["milliseconds"]
    rows = pair.gains(methods, {batch: costs(measured, batch, 0, 8) for batch in BATCHES})
    for batch in rows.values():
        for method, row in batch.items():
            row.update(replay.accuracy(methods[method], found))
    result: dict[str, Any] = {
        "questions": len(lines),
        "ended": share(sum(line["draft"]["ended"] for line in lines), len(lines)),
        "auc": auc_interval(scores, right, groups),
        "auc_fitted_to_both": auc_interval(_of_both(known, whole), right, groups),
        "right_kept": share(int((kept & right).sum()), int(right.sum())),
        "wrong_kept": share(int((kept & ~right).sum()), int((~right).sum())),
        "methods": rows,
    }
    file = json.loads(output.read_text()) if output.exists() else {}
    write_results(output, {**file, name: result})


def whole_drafts(lines: Sequence[Line], tokenizer: Tokenizer, found: Samples) -> Samples:
    """The whole drafts alone; their evidence is cut as that of the fit."""
    drafts = []
    for line, draft in zip(lines, found.drafts, strict=True):
        cuts = stride_cuts(len(line["draft"]["tokens"]), STRIDE)
        known = evidence({**line, "cuts": cuts, "log_odds": [0.0] * len(cuts)}, tokenizer)
        end = draft.cuts[-1]
        drafts.append(Draft([end], known[-1:], {end: draft.right[end]}, draft.target_right))
    return Samples(drafts)


def _of_both(known: Samples, others: Samples) -> Numbers:
    """Verdicts of `others` by a fit to `known` and to the rest of them (cross-validated)."""
    both = Samples([*known.drafts, *others.drafts])
    fitted = Fitted.of(both, JUDGE)
    return fitted.verdicts[both.groups >= len(known.drafts)]
