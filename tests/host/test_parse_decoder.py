"""The decoder against transformers, on tiny random models."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, MIXTURE, VOCAB, eager, logits, save

from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.parameters import load_parameters
from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch
from parse_runtime.models.cache import Cache
from parse_runtime.models.decoder import Wanted, forward
from parse_runtime.models.rows import Rows
from parse_runtime.signature.plan import causal
from parse_runtime.weights.source import open_model

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


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "qwen3_moe"])
@pytest.mark.parametrize("steps", [0, 5])
def test_rows_that_nobody_wants_end_with_the_last_attention(
    kind: str, steps: int, tmp_path: Path
) -> None:
    """Wanted rows, and the keys and values of all, are as without; the products are fewer."""
    save(tmp_path, kind, **(MIXTURE if kind == "qwen3_moe" else {}))
    model = open_model(str(tmp_path))
    c = model.config
    parameters = load_parameters("target", model.parameters, "float32", EagerSession().register)
    count = 32
    plans = [causal([7 + slot], 0, 1, count) for slot in range(steps)]
    plans.append(causal(list(range(count)), 0, count, count))
    plan = torch.from_numpy(np.concatenate(plans, 1))
    last = torch.tensor([steps])
    rows = Rows.mixed(plan, torch.arange(steps), last) if steps else Rows.of(plan, last)
    wanted = Wanted(torch.tensor([30, 3]), steps)

    def run(some: Wanted | None) -> tuple[torch.Tensor, torch.Tensor, int]:
        cache = Cache.apart(torch.empty(0), c, steps + 1, count + 1)
        frequencies = torch.tensor(c.inverse_frequencies())
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            x, _ = forward(parameters, c, frequencies, rows, cache, count + 1, wanted=some)
        products = counter.get_flop_counts()["Global"]
        return x, cache.values, products[torch.ops.aten.mm]

    every, caches, products = run(None)
    found, same, fewer = run(wanted)
    assert len(every) == steps + count and len(found) == steps + 2
    torch.testing.assert_close(found, wanted.of(every), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(same, caches)
    behind = ["o"] if kind == "qwen3_moe" else ["o", "gate_up", "down"]
    weights = sum(parameters[f"layers.{c.layers - 1}.{name}"].numel() for name in behind)
    assert products - fewer >= 2 * (count - 2) * weights
