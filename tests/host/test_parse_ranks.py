"""A target that several ranks share gives what it gives alone: every pass, every architecture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, VOCAB, eager, logits, quiet, require_smollm2, save, save_head
from parse_ranks import on_ranks

from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.results import floats
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.evidence import LOG_ODDS

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
"""Of 8 ranks two have each key-value head, of 2 each has two."""
GEMMA = {"sliding_window": 6, "query_pre_attn_scalar": 24, "attn_implementation": "eager"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, a vocabulary that does not divide": ("llama", {"vocab_size": 265}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", {
        "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
        "norm_topk_prob": True, "mlp_only_layers": [1],
    }),
    "mistral": ("mistral", {"sliding_window": 7}),
    "mixtral": ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2,
                            "sliding_window": None}),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    "gemma3": ("gemma3", {**GEMMA, "num_hidden_layers": 2,
                          "layer_types": ["sliding_attention", "full_attention"]}),
}  # fmt: skip
TOKENS = np.random.default_rng(1).integers(0, 261, 48).tolist()
Results = dict[str, np.ndarray]


def passes(session: EagerSession, target: GraphTarget, draft: GraphDecoder) -> Results:
    """What every kind of pass gives, from the tokens of a draft to verdicts on it."""
    found: Results = {}

    def read(name: str, graph: str, *outputs: str, **key: int) -> None:
        for output in outputs:
            found[f"{name}.{output}"] = session.graph(graph, **key).read(output)

    sampling = Sampling(0.8, 0.9, 7)
    draft.prefill(0, TOKENS[:20], 0, sampling)
    draft.decode(Batch([0], TOKENS[20:21], [20], [sampling]))
    read("draft", "draft.decode", "token", "logits", batch=1)
    target.prefill(1, TOKENS[:19], 0, GREEDY)
    read("prefill", "target.prefill", "token", "logits", len=4, prompts=1)
    target.decode(Batch([1, 0], TOKENS[19:21], [19, 0], [GREEDY, sampling]))
    read("decode", "target.decode", "token", "logits", batch=2)
    cuts = [24, 30, 36]
    verification = Verification(TOKENS[20:36], 20, cuts, [7, 8, 9], score=LOG_ODDS, drafted=21)
    target.verify(1, verification)
    read("verify", "target.verify", "verdicts", "kept", "logits", "evidence", len=48, cuts=4)
    return found


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(
        model=str(folder), max_len=64, prefill="4,16", slots=2, verify="48x4", evidence="16",
        **changes,
    )  # fmt: skip


def close(actual: Results, expected: Results) -> None:
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype == np.float32:
            error = np.abs(actual[name] - values).max()
            assert error <= 1e-4 * np.abs(values).max(), name
        else:
            np.testing.assert_array_equal(actual[name], values, err_msg=name)


def same(one: Results, other: Results) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(
            values.view(np.uint8), other[name].view(np.uint8), err_msg=name
        )


@pytest.mark.parametrize("world", [2, 4, 8])
@pytest.mark.parametrize("case", CASES)
def test_ranks_give_what_the_model_gives_alone(case: str, world: int, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    save(tmp_path, kind, **HEADS, **changes)
    wanted = settings(tmp_path)
    expected = passes(*eager(wanted, (5, 9))[:3])
    assert expected["verify.logits"].shape == (4, changes.get("vocab_size", VOCAB))
    found = on_ranks(world, lambda ranks: passes(*eager(wanted, (5, 9), ranks=ranks)[:3]))
    for own in found:
        close(own, expected)
        same(own, found[0])
    again = on_ranks(world, lambda ranks: passes(*eager(wanted, (5, 9), ranks=ranks)[:3]))
    same(again[0], found[0])


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_ranks_share_the_products_of_one_process(kind: str, tmp_path: Path) -> None:
    """Also those of the last layer, which computes the rows that are wanted alone."""
    save(tmp_path, kind, **HEADS)

    def products(_: EagerSession, target: GraphTarget, *rest: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            target.prefill(1, TOKENS[:16], 0, GREEDY)
        return counter.get_flop_counts()["Global"][torch.ops.aten.mm]

    wanted = settings(tmp_path)
    alone = products(*eager(wanted, (5, 9)))
    assert sum(on_ranks(2, lambda ranks: products(*eager(wanted, (5, 9), ranks=ranks)))) == alone


def test_bfloat16_is_the_same_on_all_ranks(tmp_path: Path) -> None:
    """Also the judge's two logits, which are not rounded to it."""
    save(tmp_path, "qwen3", **HEADS)
    wanted = settings(tmp_path, dtype="bfloat16")
    exact = passes(*eager(settings(tmp_path), (5, 9))[:3])
    found = on_ranks(4, lambda ranks: passes(*eager(wanted, (5, 9), ranks=ranks)[:3]))
    for own in found:
        same(own, found[0])
    assert found[0]["decode.logits"].dtype == np.uint16  # bfloat16, as numpy has it
    for name in ("prefill.logits", "verify.logits"):
        error = np.abs(floats(found[0][name]) - exact[name]).max()
        assert error < 0.1 * np.abs(exact[name]).max(), name
    odds = found[0]["verify.evidence"][:3, 0]
    assert np.abs(odds - exact["verify.evidence"][:3, 0]).max() < 0.5
    assert (odds.view(np.uint32) & 0xFFFF).any()


DRAFTERS: dict[str, dict[str, Any]] = {
    "draft": {"speculate": "draft"},
    "the target itself": {"speculate": "draft", "draft": ""},
    "chain": {"eagle": "head"},
    "tree": {"eagle": "head", "eagle_depth": 3, "eagle_width": 2},
    "fly": {"eagle": "head", "fly_window": 1},
}


@pytest.mark.parametrize("way", DRAFTERS)
def test_drafted_tokens_are_accepted_as_alone(way: str, tmp_path: Path) -> None:
    """The head, which uses the target's embeddings, and a draft model are whole on each rank."""
    save(tmp_path / "target", "llama", hidden_size=64, **HEADS)
    quiet(tmp_path / "target", 0.01)
    save(tmp_path / "draft", "llama", num_hidden_layers=1)
    save_head(tmp_path / "head", tmp_path / "target", good=True, drafts=200)
    values: dict[str, Any] = {"draft": str(tmp_path / "draft"), **DRAFTERS[way]}
    if "eagle" in values:
        values["eagle"] = str(tmp_path / values["eagle"])
    wanted = settings(tmp_path / "target", **values)

    def generated(session: EagerSession, target: GraphTarget, _: GraphDecoder) -> Results:
        found: Results = {}
        sequence = TOKENS[:5]
        sequence.append(target.prefill(1, sequence, 0, GREEDY))
        for step in range(12):
            (tokens,) = target.extend(Batch([1], sequence[-1:], [len(sequence) - 1], [GREEDY]))
            found[f"step {step}"] = np.asarray(tokens)
            sequence += tokens
        found["drafts"] = session.tensors["target.tree"].numpy().copy()
        return found

    expected = generated(*eager(wanted, (5, 9))[:3])
    if way != "draft":
        assert sum(len(tokens) for tokens in list(expected.values())[:-1]) > 12
    for own in on_ranks(2, lambda ranks: generated(*eager(wanted, (5, 9), ranks=ranks)[:3])):
        same(own, expected)


def test_three_ranks_share_a_quantized_model() -> None:
    """Of GGUF, whose heads lie in another order; its blocks of columns end inside ranks' parts."""
    require_smollm2()
    wanted = Settings(model="smollm2", max_len=64, prefill="16", verify="8x1")

    def prefilled(_: EagerSession, target: GraphTarget, *rest: Any) -> np.ndarray:
        return logits(target, TOKENS[:12])

    expected = prefilled(*eager(wanted))
    found = on_ranks(3, lambda ranks: prefilled(*eager(wanted, ranks=ranks)), 1 << 16)
    for own in found:
        assert np.abs(own - expected).max() <= 1e-4 * np.abs(expected).max()
        np.testing.assert_array_equal(own, found[0])
