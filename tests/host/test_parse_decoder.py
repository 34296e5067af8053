"""The decoder against transformers, on tiny random models."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import VOCAB, eager, save

from parse_runtime.capture import Settings
from parse_runtime.layout import causal

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
CASES = {
    "llama": ("llama", {}),
    "llama-scaled": ("llama", {"rope_parameters": LLAMA3}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_with_transformers(case: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    oracle = save(tmp_path, kind, **changes)
    settings = Settings(model=str(tmp_path), max_len=64, prefill="4,16", slots=3, verify="8x1")
    session, target, _, _ = eager(settings)
    tokens = np.random.default_rng(1).integers(0, VOCAB, 60).tolist()
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0].numpy()
    # Prefill in pieces of 16, 16 and a padded rest, then from an offset, then single tokens.
    close(target.prefill(tokens[:37], 0).logits(), expected[36])
    close(target.prefill(tokens[37:50], 37).logits(), expected[49])
    for position in range(50, 60):
        prediction = target.decode(tokens[position], position)
        close(prediction.logits(), expected[position])
        assert prediction.token == expected[position].argmax()
    # A batch of three sequences of unlike lengths, the middle one idle.
    plan = causal([], 0, 3, 64)
    lengths = {0: 60, 2: 21}
    for slot, length in lengths.items():
        session.write("target.slot", np.array([slot]))
        target.prefill(tokens[: length - 1], 0)
        plan[:, slot] = causal([tokens[length - 1]], length - 1, 1, 64)[:, 0]
    session.write("target.decode.3.plan", plan)
    graph = session.graph("target.decode", batch=3)
    graph.launch()
    for slot, length in lengths.items():
        close(graph.read("logits")[slot], expected[length - 1])


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    oracle = save(tmp_path, "llama")
    settings = Settings(
        model=str(tmp_path), max_len=64, dtype="bfloat16", prefill="16", verify="8x1"
    )
    _, target, _, _ = eager(settings)
    tokens = list(range(12))
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0, -1].numpy()
    actual = target.prefill(tokens, 0).logits()
    assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()
