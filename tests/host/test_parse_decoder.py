"""The decoder against transformers, on tiny random models."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, VOCAB, eager, logits, save

from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
CASES = {
    "llama": ("llama", {}),
    "llama-scaled": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
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
    settings = Settings(model=str(tmp_path), max_len=64, prefill="4,16", slots=4, verify="8x1")
    session, target, _, _ = eager(settings)
    tokens = np.random.default_rng(1).integers(0, VOCAB, 60).tolist()
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0].numpy()
    # Prefill in chunks of 16, 16 and a padded rest, then from an offset, then single tokens.
    close(logits(target, tokens[:37]), expected[36])
    close(logits(target, tokens[37:50], 37), expected[49])
    one = session.graph("target.decode", batch=1)
    for position in range(50, 60):
        found = target.decode(Batch([0], [tokens[position]], [position], [GREEDY]))
        close(one.read("logits")[0], expected[position])
        assert found == [expected[position].argmax()]
    # A padded batch of sequences of unlike lengths, in any order of their slots.
    lengths = {3: 60, 0: 21, 2: 33}
    for slot, length in lengths.items():
        target.prefill(slot, tokens[: length - 1], 0, GREEDY)
    ends = [length - 1 for length in lengths.values()]
    target.decode(Batch(list(lengths), [tokens[end] for end in ends], ends, [GREEDY] * 3))
    found = session.graph("target.decode", batch=4).read("logits")
    for row, end in zip(found, ends, strict=False):
        close(row, expected[end])


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    oracle = save(tmp_path, "llama")
    settings = Settings(
        model=str(tmp_path), max_len=64, dtype="bfloat16", prefill="16", verify="8x1"
    )
    _, target, _, _ = eager(settings)
    tokens = list(range(12))
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0, -1].numpy()
    actual = logits(target, tokens)
    assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()
