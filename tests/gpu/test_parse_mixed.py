"""Prompts beside steps of others on a GPU: a bundle's answers are those without such passes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from processes import CAPTURE, finish, start
from test_parse import printed, settings

RUN = """
import json, sys
from foundryrt.session import Session
from parse_runtime.commands.run import Options, run
from parse_runtime.graphs.target import GraphTarget
begin, beside = GraphTarget.begin_mixed, []
def counted(target, chunks, batch):
    beside.append(len(batch))
    return begin(target, chunks, batch)
GraphTarget.begin_mixed = counted
with Session.open(sys.argv[1]) as session:
    session.wait()
    found = run(session, Options(input=sys.argv[2]), True)["results"]
print(json.dumps([[one["text"], one["tokens"]] for one in found]))
print(json.dumps(beside))
"""
MODELS = ("target", "gemma3", "fp8")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Any]]:
    """Answers, and how many steps were beside prompts, by model and `--mixed`."""
    folder = tmp_path_factory.mktemp("mixed")
    finish(start(Path(__file__).parent / "parse_eager.py", folder))
    lines = [
        {"prompt": "abc" * (1 + 7 * (i % 4)), "max_new_tokens": 20 + 9 * i, "seed": i,
         "temperature": 0.8 * (i % 2), "parse": {"max_rounds": 0}}
        for i in range(12)
    ]  # fmt: skip
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    paths, captures = {}, []
    for model in MODELS:
        for mixed in ("", "4"):
            path = paths[model, mixed] = folder / f"{model}{mixed}.fdy"
            # Up to 64 rows in all, which have the bits of a pass of their own.
            values = settings(folder, {}, model=str(folder / model), prefill="32,64", mixed=mixed)
            options = [f"--{k.replace('_', '-')}={v}" for k, v in values.items()]
            captures.append(start("-c", CAPTURE, "capture", "--workload", "parse", "--target",
                                  "cuda", "--no-relocate", "-o", path, *options))  # fmt: skip
    for capture in captures:
        finish(capture)
    running = {key: start("-c", RUN, path, folder / "lines.jsonl") for key, path in paths.items()}
    return {key: printed(process) for key, process in running.items()}


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_passes_of_their_own(told: Any, model: str) -> None:
    (apart, none), (together, beside) = told[model, ""], told[model, "4"]
    assert together == apart and len(apart) == 12
    assert not none and len(beside) >= 6 and max(beside) > 1
