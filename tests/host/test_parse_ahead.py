"""Decode steps launched ahead: passes of real decoders, eager and from a bundle, on the host."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import GREEDY, eager, opened, save

from foundryrt.bundle.reader import Bundle
from foundryrt.host.readback import HostReadback
from foundryrt.session import Session
from parse_runtime.capture.eager import EagerReadback
from parse_runtime.capture.record import Settings
from parse_runtime.commands.run import Options, run
from parse_runtime.engine.batch import Batch
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.kernels.sample import sample, sample_and_step

MAX_LEN = 96


def settings_of(folder: Path, **changes: object) -> Settings:
    values: dict[str, object] = {
        "model": str(folder), "max_len": MAX_LEN, "slots": 3, "prefill": "16,64",
        "verify": "48x3,120x6", "judge_prompt": "ok?", "yes": "y", "no": "n", "stride": 5,
        **changes,
    }  # fmt: skip
    return Settings(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save(folder, "qwen3")
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven answers of unlike lengths and ways, for three slots."""
    lines = [
        {
            "prompt": "abc" * (1 + i % 3), "max_new_tokens": 7 + 5 * i, "seed": i,
            "temperature": 0.8 * (i % 2), "parse": {"max_rounds": i % 3, "threshold": 0.4},
        }
        for i in range(7)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def answers(session: Any, prompts: Path) -> list[tuple[object, ...]]:
    report = run(session, Options(input=str(prompts)), True)
    # Not the verdicts: on a CPU, products round by the number of rows.
    names = ("text", "finish_reason", "drafted", "accepted", "tokens")
    return [tuple(result[name] for name in names) for result in report["results"]]  # type: ignore[attr-defined]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs of steps whose plan was written; those launched ahead find theirs."""
    write, graphs = GraphDecoder._write_step, []

    def watched(decoder: GraphDecoder, batch: Batch) -> Any:
        signature = write(decoder, batch)
        graphs.append(signature.graph)
        return signature

    monkeypatch.setattr(GraphDecoder, "_write_step", watched)
    return graphs


@pytest.mark.parametrize("speculate", ["", "draft"])
def test_eager_answers_are_those_of_steps_that_wait(
    folder: Path, prompts: Path, speculate: str, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, found = (ord("y"), ord("n")), []
    for overlaps in (False, True):
        monkeypatch.setattr(EagerReadback, "overlaps", overlaps)
        found.append(answers(opened(settings_of(folder, speculate=speculate), words), prompts))
        steps = len(written)
        written.clear()
    assert found[0] == found[1] and len(found[0]) == 7 and steps


def test_a_bundle_runs_ahead_where_its_passes_move_their_plans(
    folder: Path, prompts: Path, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, steps = {}, {}
    for run_ahead in (True, False):
        path = tmp_path / f"{run_ahead}.fdy"
        capture(settings_of(folder, run_ahead=run_ahead), path)
        with Bundle.open(path) as bundle:
            roles = {t.role for t in bundle.manifest.tensors if ".decode.2.plan" in t.name}
        assert roles == {"output" if run_ahead else "input"}
        for overlaps in (True, False):
            monkeypatch.setattr(HostReadback, "overlaps", overlaps)
            with Session.open(path) as session:
                found[run_ahead, overlaps] = answers(session, prompts)
            steps[run_ahead, overlaps] = len(written)
            written.clear()
    assert len({json.dumps(one) for one in found.values()}) == 1
    # Only one of the four launched steps without a plan of the host's.
    assert steps[True, True] < steps[True, False] == steps[False, True] == steps[False, False]


def test_an_extend_pass_makes_what_is_in_flight_void(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EagerReadback, "overlaps", True)
    _, target, _, _ = eager(settings_of(folder, speculate="draft"))
    prompt = [7, 8, 9]
    token = target.prefill(0, prompt, 0, GREEDY)
    [after] = target.decode(Batch([0], [token], [3], [GREEDY], ahead=True))
    other = (token + 1) % 256
    target.extend(Batch([0], [other], [3], [GREEDY]))
    found = target.decode(Batch([0], [after], [4], [GREEDY]))
    assert found == [target.prefill(1, [*prompt, other, after], 0, GREEDY)]


@given(st.lists(st.sampled_from(["padding", "end", "within"]), min_size=1, max_size=6), st.data())
def test_a_plan_moves_on_to_the_tokens_that_were_sampled(
    kinds: list[str], data: st.DataObject
) -> None:
    limit, plan, expected = 9, [], []
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(kinds), 30, generator=generator)
    seeds, heat = torch.arange(len(kinds)), torch.full((len(kinds),), 0.7)
    mass = torch.ones(len(kinds))
    for kind in kinds:
        place = limit - 1 if kind == "end" else data.draw(st.integers(0, limit - 2))
        plan.append([0, 0, limit, 0, limit] if kind == "padding" else
                    [4, place, place, place + 1, place])  # fmt: skip
    before = torch.tensor(plan).T.contiguous()
    tokens = sample(logits, heat, mass, seeds, before[1])
    moved = before.clone()
    assert sample_and_step(logits, heat, mass, seeds, moved, limit).equal(tokens)
    for kind, row, token in zip(kinds, plan, tokens.tolist(), strict=True):
        following = [token, *(number + 1 for number in row[1:])]
        expected.append(row if kind == "padding" else following)
    assert moved.T.tolist() == expected
    # Padding, and a sequence that has gone past its end, stay.
    ended = moved[2] == limit
    again = moved.clone()
    sample_and_step(logits, heat, mass, seeds, again, limit)
    assert again[:, ended].equal(moved[:, ended])
