"""A captured bundle in a fresh process gives the tokens of the eager passes, with no model code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import eager, save

from foundryc.recorder import Recorder
from foundryrt.errors import UsageError
from parse_runtime.capture import Settings, record
from parse_runtime.run import Options, run
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.weights.source import open_model

RUN = """
import json, sys
from foundryrt.session import Session
from parse_runtime.run import Options, run
with Session.open(sys.argv[1]) as session:
    report = run(session, Options(**json.loads(sys.argv[2])), True)
foreign = ("parse_runtime.models", "parse_runtime.passes", "parse_runtime.capture",
           "foundryc", "transformers")
model_code = [m for m in sys.modules if m.startswith(foreign)]
print(json.dumps([report, model_code]))
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


def capture(settings: Settings, bundle: Path) -> None:
    with Recorder(target="host", workload="parse", settings=asdict(settings)) as recorder:
        record(recorder, settings)
        recorder.save(bundle)


def in_fresh_process(bundle: Path, options: dict[str, object]) -> dict[str, object]:
    command = [sys.executable, "-c", RUN, str(bundle), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report, model_code = json.loads(done.stdout)
    assert model_code == []
    return report


def eagerly(settings: Settings, options: dict[str, object]) -> dict[str, object]:
    model = open_model(settings.model)
    tokenizer = Tokenizer.from_json(model.text.tokenizer_json)
    session, *_ = eager(settings, (tokenizer.single("y"), tokenizer.single("n")))
    files = {
        "tokenizer.json": model.text.tokenizer_json.encode(),
        "chat.json": json.dumps(model.text.chat.to_dict()).encode(),
    }
    face = SimpleNamespace(
        file=files.__getitem__, files=list(files), settings=asdict(settings), graphs=session.graphs,
        write=session.write, graph=session.graph,
    )  # fmt: skip
    return run(face, Options(**options), True)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_fresh_process_gives_the_eager_tokens(kind: str, tmp_path: Path) -> None:
    save(tmp_path, kind)
    settings = tiny(tmp_path)
    capture(settings, tmp_path / "parse.fdy")
    for choice in CHOICES:
        options = {"prompt": "Why is the sky blue?", "max_new_tokens": 30, **choice}
        got = in_fresh_process(tmp_path / "parse.fdy", options)
        expected = json.loads(json.dumps(eagerly(settings, options)))
        assert {name: got[name] for name in COUNTS} == {name: expected[name] for name in COUNTS}


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    target, draft = tmp_path / "target", tmp_path / "draft"
    save(target, "llama")
    save(draft, "llama")
    file = draft / "tokenizer.json"
    file.write_text(file.read_text().replace("<|system|>", "<|tool|>"))
    with pytest.raises(UsageError, match="tokenizer is not that of"):
        capture(tiny(target, draft=str(draft)), tmp_path / "parse.fdy")


def test_two_models_keep_weights_of_their_own(tmp_path: Path) -> None:
    target, draft = tmp_path / "target", tmp_path / "draft"
    save(target, "llama")
    save(draft, "qwen3", num_hidden_layers=1)
    # Weight files of one bundle are told apart by name.
    (draft / "model.safetensors").rename(draft / "draft.safetensors")
    capture(tiny(target, draft=str(draft)), tmp_path / "parse.fdy")
    report = in_fresh_process(tmp_path / "parse.fdy", {"prompt": "x", "max_new_tokens": 12})
    assert report["drafted"] and report["tokens"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_len": 300}, "256"),
        ({"judge_prompt": "x" * 200}, "no room"),
        ({"yes": "yes"}, "3 tokens"),
        ({"model": "/nowhere"}, "no such model"),
        ({"verify": "12"}, "128x4"),
        ({"selection": "best"}, "first-failure"),
        ({"dtype": "int4"}, "bfloat16"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    save(tmp_path, "llama")
    with pytest.raises(UsageError, match=named):
        capture(tiny(tmp_path, **change), tmp_path / "parse.fdy")
