"""A captured bundle in a fresh process gives the tokens of the eager passes, with no model code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import MIXTURE, answer, save, save_head

from foundryrt.bundle.reader import Bundle
from foundryrt.errors import UsageError
from foundryrt.session import Session
from parse_runtime.capture.record import Settings
from parse_runtime.commands.jobs import Defaults, Line
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.request import Request
from parse_runtime.engine.rules import BundleRules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import load

RUN = """
import json, sys
from foundryrt.session import Session
from parse_runtime.commands.run import Options, run
reports = []
for options in map(json.loads, sys.argv[2:]):
    with Session.open(sys.argv[1]) as session:
        reports.append(run(session, Options(**options), True))
foreign = ("parse_runtime.models", "parse_runtime.capture.passes", "parse_runtime.capture.record",
           "foundryc", "transformers")
model_code = [m for m in sys.modules if m.startswith(foreign)]
print(json.dumps([reports, model_code]))
"""
CHOICES = [
    {"threshold": 0.0},
    {"threshold": 1.0, "max_rounds": 2},
    {"selection": "longest-accepted", "two_stage": True, "temperature": 0.8, "seed": 3},
]
COUNTS = ("text", "rounds", "drafted", "accepted", "tokens", "verdicts")


def tiny(folder: Path, **changes: object) -> Settings:
    values: dict[str, object] = {
        "model": str(folder), "max_len": 160, "prefill": "16,64", "verify": "48x2,120x3",
        "judge_prompt": "ok?", "yes": "y", "no": "n", "stride": 4, **changes,
    }  # fmt: skip
    return Settings(**values)  # type: ignore[arg-type]


def in_fresh_process(bundle: Path, *choices: dict[str, object]) -> list[dict[str, object]]:
    """Reports of runs with these options, one session after another."""
    command = [sys.executable, "-c", RUN, str(bundle), *map(json.dumps, choices)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    reports, model_code = json.loads(done.stdout)
    assert model_code == []
    return list(reports)


def eagerly(settings: Settings, options: dict[str, object]) -> dict[str, object]:
    return dict(json.loads(json.dumps(answer(settings, options))))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_fresh_process_gives_the_eager_tokens(kind: str, tmp_path: Path) -> None:
    save(tmp_path, kind)
    settings = tiny(tmp_path)
    capture(settings, tmp_path / "parse.fdy")
    asked = {"prompt": "Why is the sky blue?", "max_new_tokens": 30}
    choices = [asked | choice for choice in CHOICES]
    found = in_fresh_process(tmp_path / "parse.fdy", *choices)
    for options, got in zip(choices, found, strict=True):
        expected = eagerly(settings, options)
        assert {name: got[name] for name in COUNTS} == {name: expected[name] for name in COUNTS}


def test_another_tokenizer_cannot_draft_single_tokens(tmp_path: Path) -> None:
    target, draft = tmp_path / "target", tmp_path / "draft"
    save(target, "llama")
    save(draft, "llama")
    file = draft / "tokenizer.json"
    file.write_text(file.read_text().replace("<|system|>", "<|tool|>"))
    changes = {"draft": str(draft), "speculate": "draft"}
    with pytest.raises(UsageError, match="is not that of"):
        capture(tiny(target, **changes), tmp_path / "parse.fdy")


def test_a_draft_model_with_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    target, draft = tmp_path / "target", tmp_path / "draft"
    save(target, "llama")
    save(draft, "llama", vocab_size=250, eos_token_id=249)
    with pytest.raises(UsageError, match=r"draft/tokenizer\.json: its ids go up to 260"):
        capture(tiny(target, draft=str(draft)), tmp_path / "parse.fdy")


@pytest.mark.parametrize("sizes", [(272, 320), (320, 272)])
def test_models_of_one_tokenizer_share_a_vocabulary(sizes: tuple[int, int], tmp_path: Path) -> None:
    """Padding, which one of them has more of, is no token that the other could be given."""
    folders = [tmp_path / "target", tmp_path / "draft"]
    for folder, size in zip(folders, sizes, strict=True):
        save(folder, "llama", vocab_size=size)
        (folder / "model.safetensors").rename(folder / f"{folder.name}.safetensors")
    settings = tiny(folders[0], draft=str(folders[1]), speculate="draft")
    capture(settings, tmp_path / "parse.fdy")
    with Bundle.open(tmp_path / "parse.fdy") as bundle:
        tables = [t for t in bundle.manifest.tensors if t.name.endswith((".embed", ".head"))]
    assert len(tables) == 4 and all(table.shape[0] == 272 for table in tables)
    options = {"prompt": "Why?", "max_new_tokens": 30, "temperature": 1.5, "max_rounds": 0}
    (report,) = in_fresh_process(tmp_path / "parse.fdy", options)
    assert report["tokens"] == 30


@pytest.mark.parametrize("way", ["draft", "chain", "tree", "mixture"])
def test_token_drafts_work_in_a_fresh_process(way: str, tmp_path: Path) -> None:
    """With each drafter, the answers of the target alone; one is a Gemma 3 with windows."""
    families = {"mixture": ("qwen3_moe", MIXTURE), "draft": ("gemma3", {"sliding_window": 6})}
    kind, sizes = families.get(way, ("qwen3", {}))
    save(tmp_path, kind, **sizes)
    save_head(tmp_path / "head", tmp_path)
    head = {"eagle": str(tmp_path / "head"), "eagle_depth": 3}
    ways = {"draft": {"speculate": "draft"}, "chain": head, "tree": {**head, "eagle_width": 3},
            "mixture": head}  # fmt: skip
    capture(tiny(tmp_path, slots=2, **ways[way]), tmp_path / "parse.fdy")
    greedy = {"prompt": "Why?", "max_new_tokens": 40, "max_rounds": 0}
    choices = [greedy, greedy | {"temperature": 0.8, "seed": 3}]
    found = in_fresh_process(tmp_path / "parse.fdy", *choices)
    for options, got in zip(choices, found, strict=True):
        expected = eagerly(tiny(tmp_path), options)
        assert got["text"] == expected["text"] and got["tokens"] == expected["tokens"]


def test_two_models_keep_weights_of_their_own(tmp_path: Path) -> None:
    target, draft = tmp_path / "target", tmp_path / "draft"
    save(target, "llama")
    save(draft, "qwen3", num_hidden_layers=1)
    # Weight files of one bundle are told apart by name.
    (draft / "model.safetensors").rename(draft / "draft.safetensors")
    capture(tiny(target, draft=str(draft)), tmp_path / "parse.fdy")
    options = {"prompt": "x", "max_new_tokens": 12}
    (report,) = in_fresh_process(tmp_path / "parse.fdy", options)
    assert report["drafted"] and report["tokens"]


@pytest.mark.parametrize("template", [True, False])
def test_a_model_that_cannot_judge_answers_alone(template: bool, tmp_path: Path) -> None:
    # A base model has no chat template, and nobody's "Yes" need be one token.
    save(tmp_path, "llama")
    settings = tiny(tmp_path, yes="Yes", no="No", prefill="16", verify="120x1", max_rounds=0)
    if not template:
        (tmp_path / "chat_template.jinja").unlink()
    capture(settings, tmp_path / "parse.fdy")
    with Session.open(tmp_path / "parse.fdy") as session:
        loaded = load(session)
        rules = BundleRules(loaded.captured, loaded.rules)

        def request(**changes: int) -> Request:
            line = Line(prompt="Why?", parse=changes)
            return Defaults(4, Sampling(), (), rules).job(loaded.prompts, line).request

        scheduler = Scheduler(loaded.target, loaded.draft)
        heard = Outcome(request(), loaded.prompts.text([]))
        scheduler.submit(heard.request, heard)
        while scheduler.step():
            pass
        assert heard.statistics.tokens == 4 and not heard.statistics.verdicts
        with pytest.raises(UsageError, match=r"chat template|one each"):
            request(max_rounds=1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_len": 300}, "give --max-len 256 or less"),
        ({"judge_prompt": "x" * 200}, "no room"),
        ({"yes": "yes"}, "3 tokens"),
        ({"yes": "n"}, "the same token"),
        ({"model": "/nowhere"}, "no such model"),
        ({"verify": "12"}, "^verify '12': write ROWSxCUTS"),
        ({"verify": "8x8"}, "^verify '8x8': .* more rows than cuts"),
        ({"prefill": "16,x"}, "^prefill '16,x': write rows"),
        ({"prefill": ""}, "^prefill '': at least one size"),
        ({"prefill": "16,900"}, "give --prefill with passes of no more rows"),
        ({"decode": "0"}, "^decode '0': write numbers of sequences"),
        ({"mixed": "a"}, "^mixed 'a': write numbers of sequences"),
        ({"evidence": "1"}, "^evidence '1': write a number for each verify"),
        ({"chat_template": "/nowhere"}, "^--chat-template /nowhere: cannot be read: No such file"),
        ({"selection": "best"}, "first-failure"),
        ({"cut_at": "word"}, "stride, sentence"),
        ({"threshold": 1.5}, "probability"),
        ({"resume_tokens": 0}, "resume-tokens 0: at least 1"),
        ({"dtype": "int4"}, "bfloat16"),
        ({"speculate": "target"}, "draft, or nothing"),
        ({"speculate": "draft", "eagle_depth": 63}, "at most 63"),
        ({"decode": "4"}, "up to slots"),
        ({"eagle": "/nowhere"}, "no such folder"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    save(tmp_path, "llama")
    with pytest.raises(UsageError, match=named):
        capture(tiny(tmp_path, **change), tmp_path / "parse.fdy")
