"""Mistral, Mixtral, Gemma and windows elsewhere against transformers, in every kind of pass."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, VOCAB, eager, logits, save, save_head

from foundryrt.errors import UsageError
from parse_runtime.capture.record import _models
from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.protocols import Verification
from parse_runtime.weights.eagle3 import open_head
from parse_runtime.weights.source import open_model

YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip
GLOBAL = {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0}
EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": 7}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "mistral, yarn": ("mistral", {"sliding_window": None, "rope_parameters": YARN}),
    "mixtral": ("mixtral", {**EXPERTS, "sliding_window": 9}),
    "gemma2": ("gemma2", {"sliding_window": 6, "attn_logit_softcapping": 3.0,
                          "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0}),
    "gemma3": ("gemma3", {
        "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4, "query_pre_attn_scalar": 24,
        "rope_parameters": {"full_attention": GLOBAL,
                            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    }),
    "qwen3": ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
}  # fmt: skip
TOKENS = np.random.default_rng(1).integers(0, VOCAB, 60).tolist()


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def every_logit(oracle: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = oracle(torch.tensor([tokens])).logits[0].numpy()
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_pass_agrees_with_transformers(case: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    oracle = save(tmp_path, kind, **{"attn_implementation": "eager", **changes})
    settings = Settings(model=str(tmp_path), max_len=64, prefill="4,16", slots=2, verify="96x8")
    session, target, _, model = eager(settings, (5, 9))
    expected = every_logit(oracle, TOKENS)
    assert bool(model.config.windowed_layers) == bool(changes["sliding_window"])

    def decoded(slot: int, token: int, position: int) -> np.ndarray:
        target.decode(Batch([slot], [token], [position], [GREEDY]))
        found: np.ndarray = session.graph("target.decode", batch=1).read("logits")[0]
        return found

    for position, token in enumerate(TOKENS):
        close(decoded(0, token, position), expected[position])
    start = 0
    for length in (1, 3, 16, 4, 11, 2, 23):
        close(
            logits(target, TOKENS[start : start + length], start, 1), expected[start + length - 1]
        )
        start += length

    # Prefixes of a draft, from those that the window covers to those far behind its end.
    prompt, draft, suffix = TOKENS[:13], TOKENS[13:43], [7, 8, 9, 70, 71, 72, 73]
    cuts = [14, 15, 18, 22, 26, 31, 38, 43]
    target.prefill(0, prompt, 0, GREEDY)
    target.verify(0, Verification(draft, len(prompt), cuts, suffix))
    judged = session.graph("target.verify", len=96, cuts=8).read("logits")
    for row, cut in zip(judged, cuts, strict=True):
        close(row, every_logit(oracle, TOKENS[:cut] + suffix)[-1])
    # Resumed after a prefix that is kept; the shorter one last, since it overwrites a row.
    for cut in (43, 18):
        close(decoded(0, 99, cut), every_logit(oracle, [*TOKENS[:cut], 99])[-1])


def test_what_a_family_cannot_do_is_named(tmp_path: Path) -> None:
    save(tmp_path / "mistral", "mistral", sliding_window=4)
    save(tmp_path / "gemma3", "gemma3")
    save_head(tmp_path / "head", tmp_path / "mistral")
    short = Settings(model=str(tmp_path / "mistral"), max_len=64, prefill="16", speculate="draft")
    with pytest.raises(UsageError, match="sliding window of 4 tokens must be longer"):
        _models(short)
    with pytest.raises(UsageError, match="heads of gemma3 are not supported"):
        open_head(str(tmp_path / "head"), open_model(str(tmp_path / "gemma3")).config)
