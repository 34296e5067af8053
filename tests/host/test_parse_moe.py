"""Mixtures of experts against transformers, on tiny random models."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, MIXTURE, VOCAB, eager, logits, save

from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_topk_prob": True},
        {"norm_topk_prob": False, "mlp_only_layers": [1]},
        {"norm_topk_prob": True, "decoder_sparse_step": 2},
    ],
    ids=["normalized", "a dense layer", "every other layer"],
)
def test_logits_agree_with_transformers(changes: dict[str, object], tmp_path: Path) -> None:
    oracle = save(tmp_path, "qwen3_moe", **MIXTURE, **changes)
    settings = Settings(model=str(tmp_path), max_len=64, prefill="4,16", verify="8x1")
    session, target, _, model = eager(settings)
    tokens = np.random.default_rng(1).integers(0, VOCAB, 40).tolist()
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0].numpy()
    found = logits(target, tokens[:37])
    assert np.abs(found - expected[36]).max() <= 1e-4 * np.abs(expected).max()
    for position in range(37, 40):
        target.decode(Batch([0], [tokens[position]], [position], [GREEDY]))
        found = session.graph("target.decode", batch=1).read("logits")[0]
        assert np.abs(found - expected[position]).max() <= 1e-4 * np.abs(expected).max()
    dense = {"normalized": (), "a dense layer": (1,), "every other layer": (0, 2)}
    assert model.config.dense_layers in dense.values()
