"""Passes of prompts and a decode step together: each row as in a pass of its own kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import GREEDY, VOCAB, eager, save
from parse_ranks import on_ranks

from foundryrt.bundle.reader import Bundle
from foundryrt.errors import UsageError
from foundryrt.host.readback import HostReadback
from foundryrt.session import Session
from parse_runtime.capture.record import Settings
from parse_runtime.commands.run import Options, run
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.graphs.target import GraphTarget

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "gemma3": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2,
               "num_hidden_layers": 4},
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}  # fmt: skip
LENGTHS = {3: 5, 0: 32, 1: 33, 2: 1}
TOKENS = np.random.default_rng(3).integers(0, VOCAB, (4, 64)).tolist()


def settings(folder: Path, **changes: Any) -> Settings:
    values = {
        "max_len": 64, "slots": 4, "prefill": "64,160", "mixed": "1,3", "verify": "40x2", **changes
    }  # fmt: skip
    return Settings(model=str(folder), **values)


def step(slots: list[int], sampling: Sampling = GREEDY) -> Batch:
    """The rows behind what the slots' prompts begin with."""
    ends = [LENGTHS[slot] for slot in slots]
    tokens = [TOKENS[slot][end] for slot, end in zip(slots, ends, strict=True)]
    return Batch(slots, tokens, ends, [sampling] * len(slots))


def prompts(slots: list[int], sampling: Sampling = GREEDY, **changes: Any) -> list[Chunk]:
    return [Chunk(s, TOKENS[s][: LENGTHS[s]], 0, sampling, **changes) for s in slots]


def mixed(session: Any, target: GraphTarget, sampling: Sampling = GREEDY) -> dict[int, np.ndarray]:
    """Logits of a step of two slots, and of two prompts beside it, of unlike sizes, by slot."""
    target.prefill_all(prompts([3, 1], sampling))
    # The only pass that holds both: 128 rows of prompts, and a step of up to three.
    wait = target.begin_mixed(prompts([0, 2], sampling, scored=True), step([3, 1], sampling))
    first, second = wait()
    own = session.graph("target.mixed", len=128, prompts=4, batch=3).read("logits")
    return {3: own[0], 1: own[1], 0: np.asarray(first), 2: np.asarray(second)}


@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_have_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    oracle = save(tmp_path, kind, attn_implementation="eager", **FAMILIES[kind])
    session, target, _, _ = eager(settings(tmp_path, prefill="160"))
    ends = {3: 6, 1: 34, 0: 32, 2: 1}
    for slot, found in mixed(session, target).items():
        with torch.no_grad():
            given = torch.tensor([TOKENS[slot][: ends[slot]]])
            expected = oracle(given).logits[0, -1].numpy()
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), slot
    # What they put into the cache is there for the steps behind them.
    with torch.no_grad():
        logits = oracle(torch.tensor([TOKENS[0][:33]])).logits[0, -1].numpy()
    target.decode(Batch([0], [TOKENS[0][32]], [32], [GREEDY]))
    [row] = session.graph("target.decode", batch=1).read("logits")
    assert np.abs(row - logits).max() <= 1e-4 * np.abs(logits).max()


def test_samples_are_those_of_passes_of_their_own(tmp_path: Path) -> None:
    save(tmp_path, "qwen3")
    found = []
    for together in (True, False):
        _, target, _, _ = eager(settings(tmp_path))
        seeded = Sampling(0.9, 0.9, 5)
        target.prefill_all(prompts([3, 1], seeded))
        if together:
            wait = target.begin_mixed(prompts([0, 2], seeded), step([3, 1], seeded))
            found.append((wait(), target.extend(step([3, 1], seeded))))
        else:
            alone = target.begin_prefill(prompts([0, 2], seeded))()
            found.append((alone, target.extend(step([3, 1], seeded))))
    assert found[0] == found[1]


def test_ranks_share_a_mixed_pass(tmp_path: Path) -> None:
    save(tmp_path, "qwen3")
    chosen = settings(tmp_path, prefill="160")

    def given(ranks: Any = None) -> list[np.ndarray]:
        session, target, *_ = eager(chosen, ranks=ranks) if ranks else eager(chosen)
        return list(mixed(session, target).values())

    expected = given()
    for own in on_ranks(2, given, 1 << 17):
        for one, other in zip(own, expected, strict=True):
            assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With mixed passes and without, and lines that are asked of them."""
    folder = tmp_path_factory.mktemp("mixed")
    save(folder / "model", "qwen3")
    lines = [
        {"prompt": "abc" * (1 + 5 * (i % 4)), "max_new_tokens": 7 + 5 * i, "seed": i,
         "temperature": 0.8 * (i % 2), "parse": {"max_rounds": i % 3 // 2, "threshold": 0.4}}
        for i in range(9)
    ]  # fmt: skip
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("", "1,3"):
        capture(
            settings(folder / "model", max_len=96, verify="48x3,120x6", judge_prompt="ok?", yes="y",
                     no="n", stride=5, slots=3, prefill="16,64,96", mixed=name),
            folder / f"bundle{name}.fdy",
        )  # fmt: skip
    return {name: folder / f"bundle{name}.fdy" for name in ("", "1,3")}


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_bundle_answers_as_one_without_mixed_passes(
    bundles: dict[str, Path], overlaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostReadback, "overlaps", overlaps)
    begin, passes, answers = GraphTarget.begin_mixed, [], {}

    def counted(target: GraphTarget, chunks: Any, batch: Any) -> Any:
        passes.append(len(batch))
        return begin(target, chunks, batch)

    monkeypatch.setattr(GraphTarget, "begin_mixed", counted)
    for name, path in bundles.items():
        assert len(passes) == 0
        with Bundle.open(path) as bundle:
            graphs = {graph.name for graph in bundle.manifest.graphs}
        assert ("target.mixed" in graphs) == bool(name)
        with Session.open(path) as session:
            options = Options(input=str(path.parent / "lines.jsonl"))
            report: Any = run(session, options, True)
        fields = ("text", "finish_reason", "tokens", "drafted", "accepted")
        answers[name] = [[one[field] for field in fields] for one in report["results"]]
    assert answers[""] == answers["1,3"] and len(answers[""]) == 9
    assert max(passes) > 1 and len(passes) > 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixed": "5"}, "mixed '5': batches up to slots, 4"),
        ({"mixed": "x"}, "mixed 'x': write numbers of sequences, such as 1,4,8"),
        ({"mixed": "0"}, "mixed '0': .* sizes are at least 1"),
        ({"mixed": "4", "prefill": "32"}, "each needs a prefill pass of 32 rows more, not only 32"),
        ({"mixed": "2", "speculate": "draft"}, "leave out --eagle and --speculate, or --mixed"),
        ({"mixed": "2", "fp8_activations": True}, "leave out --fp8-activations, or --mixed"),
        ({"mixed": "2", "run_ahead": False}, "leave --run-ahead on"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(Path("m"), **changes)


def test_a_list_of_nothing_is_none() -> None:
    assert not settings(Path("m"), mixed=",").sizes().mixed
