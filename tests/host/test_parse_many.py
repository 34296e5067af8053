"""Prefill passes that several prompts share: each prompt is computed as if it were alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import GREEDY, VOCAB, eager, save, save_drafted
from parse_ranks import on_ranks

from foundryrt.bundle.reader import Bundle
from foundryrt.session import Session
from parse_runtime.capture.record import Settings
from parse_runtime.commands.run import Options, run
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.sizes import PassSizes

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "gemma2": {"sliding_window": 6, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 24},
}
LENGTHS = {3: 5, 0: 32, 1: 33, 2: 1}
TOKENS = np.random.default_rng(3).integers(0, VOCAB, (4, 64)).tolist()
SEEDED = Sampling(0.9, 0.9, 5)


def settings(folder: Path, **changes: Any) -> Settings:
    values = {"max_len": 64, "slots": 4, "prefill": "32,128,160", "verify": "40x2", **changes}
    return Settings(model=str(folder), **values)


def prompts(sampling: Sampling = GREEDY, **changes: Any) -> list[Chunk]:
    """A prompt in each of four slots, of unlike lengths."""
    return [
        Chunk(slot, TOKENS[slot][:length], 0, sampling, **changes)
        for slot, length in LENGTHS.items()
    ]


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_prompt_has_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    changes = {"attn_implementation": "eager", **FAMILIES[kind]}
    oracle = save(tmp_path, kind, **changes)
    session, target, _, _ = eager(settings(tmp_path))

    def expected(slot: int, length: int) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = oracle(torch.tensor([TOKENS[slot][:length]])).logits[0, -1].numpy()
        return found

    found = target.begin_prefill(prompts(scored=True))()
    # They take 32, 32, 64 and 32 rows.
    assert session.graph("target.prefill", len=160, prompts=4).read("token").shape == (4,)
    for logits, (slot, length) in zip(found, LENGTHS.items(), strict=True):
        close(logits, expected(slot, length))
    # Chunks that go on, one of them unfinished, beside a prompt that takes another's place.
    more = [
        Chunk(0, TOKENS[0][32:60], 32, GREEDY, scored=True),
        Chunk(1, TOKENS[1][33:50], 33, GREEDY, following=TOKENS[1][50]),
        Chunk(2, TOKENS[2][:40], 0, GREEDY, scored=True),
    ]
    first, unfinished, last = target.begin_prefill(more)()
    close(first, expected(0, 60))
    close(last, expected(2, 40))
    assert unfinished is None
    # Every slot has its own rows, also those that no pass has read so far.
    ends = {0: 60, 1: 50, 2: 40, 3: 5}
    batch = Batch(
        list(ends), [TOKENS[s][end] for s, end in ends.items()], list(ends.values()), [GREEDY] * 4
    )
    target.decode(batch)
    rows = session.graph("target.decode", batch=4).read("logits")
    for row, (slot, end) in zip(rows, ends.items(), strict=True):
        close(row, expected(slot, end + 1))


def test_sampling_and_likelihood_are_each_prompt_s_own(tmp_path: Path) -> None:
    save(tmp_path, "qwen3")
    together, alone = (eager(settings(tmp_path)) for _ in range(2))
    chosen = [replace(p, sampling=replace(SEEDED, seed=p.slot)) for p in prompts()]
    found = together[2].begin_prefill(chosen)()
    assert found == [alone[2].prefill_all([prompt])[0] for prompt in chosen]
    assert len({*found}) > 1
    shared, own = (one[0].tensors["draft.likelihood"] for one in (together, alone))
    for slot, length in LENGTHS.items():
        assert shared[slot, length - 1] < 0
        assert torch.allclose(shared[slot, length - 1], own[slot, length - 1], atol=1e-4)


HEADS: dict[str, dict[str, Any]] = {
    "chain": {"eagle": "head"},
    "tree": {"eagle": "head", "eagle_depth": 3, "eagle_width": 2},
    "draft": {"speculate": "draft"},
}


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_drafted(tmp_path_factory.mktemp("drafted"))


def extended(target: GraphTarget, together: bool) -> list[list[int]]:
    """Tokens of four sequences by six extend passes, and how many each pass gave."""
    given = prompts()
    found = target.prefill_all(given) if together else [target.prefill_all([p])[0] for p in given]
    tokens = [[int(token)] for token in found]  # type: ignore[call-overload]
    counts = []
    for _ in range(6):
        slots = [prompt.slot for prompt in given]
        ends = [len(p.tokens) + len(new) - 1 for p, new in zip(given, tokens, strict=True)]
        batch = Batch(slots, [new[-1] for new in tokens], ends, [GREEDY] * 4)
        counts.append([])
        for new, more in zip(tokens, target.extend(batch), strict=True):
            new += more
            counts[-1].append(len(more))
    return [*tokens, *counts]


@pytest.mark.parametrize("way", HEADS)
def test_drafts_after_a_shared_pass_are_those_after_one_s_own(way: str, drafted: Path) -> None:
    values = dict(HEADS[way])
    if "eagle" in values:
        values["eagle"] = str(drafted / "head")
    chosen = settings(drafted / "target", **values)
    found = [extended(eager(chosen)[1], together) for together in (True, False)]
    assert found[0] == found[1]
    # The head has what its drafts need: most are accepted.
    assert sum(map(sum, found[0][4:])) > 40


def test_the_head_stores_what_it_stores_of_each_prompt_alone(drafted: Path) -> None:
    """Also of a chunk that does not end its prompt, and where a pass could take more prompts."""
    chosen = settings(drafted / "target", eagle=str(drafted / "head"))
    first, second, third, _ = prompts()
    chunks = [first, third.part(0, 21), second]
    stored = []
    for passes in ([chunks], [[first], [second], [third]]):
        session, target, _, _ = eager(chosen)
        for some in passes:
            target.begin_prefill(some)()
        blocks = torch.from_numpy(target.tables.values).long()
        # [slots, blocks, layers, 2, BLOCK, kv_heads, head_dim]
        cache = session.tensors["target.eagle.cache"][blocks]
        stored.append(cache.movedim(4, 2).flatten(1, 2))
    for chunk in chunks:
        shared, own = (cache[chunk.slot, : len(chunk.tokens)] for cache in stored)
        assert own.abs().amin(-1).max() > 0
        assert (shared - own).abs().max() < 1e-4 * own.abs().max()


def test_ranks_share_a_pass_over_several_prompts(drafted: Path) -> None:
    chosen = settings(drafted / "target", eagle=str(drafted / "head"))

    def given(target: GraphDecoder) -> np.ndarray:
        return np.stack(target.begin_prefill(prompts(scored=True))())  # type: ignore[arg-type]

    expected = given(eager(chosen)[1])
    for own in on_ranks(2, lambda ranks: given(eager(chosen, ranks=ranks)[1]), 1 << 16):
        close(own, expected)


def test_bundles_of_one_prompt_a_pass_run_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What captures of before 2026-11-30 hold: no `slots` and no number of prompts."""
    save(tmp_path / "model", "qwen3")
    sizes, answers = Settings.sizes, {}
    lines = [f'{{"prompt": "{"ab" * (3 + 9 * i)}", "max_new_tokens": 9}}' for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    for packs in (True, False):
        if not packs:

            def single(settings: Settings) -> PassSizes:
                return replace(sizes(settings), prompts=())

            monkeypatch.setattr(Settings, "sizes", single)
        path = tmp_path / f"{packs}.fdy"
        chosen = settings(
            tmp_path / "model", max_len=96, verify="48x3,120x6", judge_prompt="ok?", yes="y",
            no="n", stride=5, threshold=0.4, slots=3,
        )  # fmt: skip
        capture(chosen, path)
        with Bundle.open(path) as bundle:
            names = {tensor.name for tensor in bundle.manifest.tensors}
        assert ("target.prefill.128.slots" in names) == packs
        with Session.open(path) as session:
            keys = [key for graph, key in session.graphs if graph == "target.prefill"]
            assert all(("prompts" in key) == packs for key in keys)
            report = run(session, Options(input=str(tmp_path / "prompts.jsonl")), True)
        answers[packs] = [(r["text"], r["accepted"]) for r in report["results"]]  # type: ignore[index]
    assert answers[True] == answers[False] and len(answers[True]) == 4
