"""Products whose weights are held, and kernels fused at one row, in Triton's interpreter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report

from parse_runtime.kernels.attend_step import attend_step, attend_step_parts
from parse_runtime.kernels.linear import linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.normed import normed_parts, normed_swiglu
from parse_runtime.kernels.quantized import Quantized
from parse_runtime.kernels.rotate import Rotation, rotate_store
from parse_runtime.kernels.streamed import holds, of_ranks, streams
from parse_runtime.kernels.swiglu import linear_swiglu


def test_fused_kernels_near_the_references_and_equal_to_those_they_replace():
    report = kernel_report("parse_fused_interpreted.py", interpreted=True)
    for name, distance in report["near"].items():
        assert distance < 2e-6, name
    for name, differing in report["differing"].items():
        assert differing == 0, name


@pytest.mark.parametrize(
    ("shape", "gated", "expected"),
    [
        ((4096, 1024), False, (2, 4, 64, 1)),  # Qwen3-0.6B: query, key and value,
        ((1024, 2048), False, (4, 4, 64, 2)),  # output,
        ((6144, 1024), True, (1, 8, 32, 1)),  # gates and values,
        ((1024, 3072), False, (8, 3, 64, 1)),  # down
        ((64, 256), False, (1, 2, 64, 1)),
        ((151936, 1024), False, None),  # more programs than a GPU holds
        ((2048, 2048), False, (4, 4, 64, 1)),
        ((512, 1024), False, (4, 2, 64, 1)),
        ((7168, 5120), False, None),
        ((6144, 1152), True, None),  # more than registers hold
        ((1024, 1000), False, None),  # no whole tiles
    ],
)
def test_which_matrices_are_held(shape, gated, expected):
    kernels = pytest.importorskip("parse_runtime.kernels.cuda.tiles")
    weight = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    assert kernels.holding(weight, gated) == (expected and kernels.Holding(*expected))
    assert kernels.holding(weight.float(), gated) is None
    assert kernels.holding(Quantized(weight, weight), gated) is None


@given(n=st.integers(1, 400), k=st.integers(1, 40), gated=st.booleans(), ranks=st.booleans())
def test_a_held_matrix_is_streamed_by_the_same_spans_and_tiles(n, k, gated, ranks):
    """For any number of rows: else a row alone would have other bits than among others."""
    kernels = pytest.importorskip("parse_runtime.kernels.cuda.tiles")
    weight = torch.empty(32 * n, 64 * k, dtype=torch.bfloat16, device="meta")
    held = kernels.holding(weight, gated)
    with of_ranks(ranks):
        for count in (1, 16, 17, 32, 64):
            tiles = kernels.choose(weight, torch.bfloat16, count, gated)
            assert tiles.apart == (held is not None and not ranks)
            if tiles.apart:
                assert (tiles.spans, tiles.depth) == (held.spans * held.joined, 128)
                assert held.spans * held.tiles * 128 == 64 * k
                assert held.tiles * held.columns <= 256 and held.tiles % held.joined == 0
                assert held.joined == 1 or tiles.spans in (2, 4, 8)


def test_one_row_is_held_whatever_else_a_model_runs():
    for rows in (1, 2, 64, 65):
        x = SimpleNamespace(is_cuda=True, shape=(rows, 1024))
        assert holds(x) == (rows == 1) and streams(x) == (rows < 65)
    assert not holds(torch.zeros(1, 1024))
    with of_ranks(True):
        assert not holds(SimpleNamespace(is_cuda=True, shape=(1, 1024)))


def test_fused_functions_are_those_they_name():
    x, residual, norm = torch.randn(1, 12), torch.randn(1, 12), torch.randn(12)
    qkv_weight, gate_up, o = torch.randn(24, 12), torch.randn(10, 12), torch.randn(12, 12)
    normed, total = add_rms_norm(x, residual, norm, 1e-6, 1.0)
    qkv, entered = normed_parts(x, residual, norm, 1e-6, 1.0, None, qkv_weight)
    assert torch.equal(entered, total)
    assert torch.equal(qkv, linear_parts(normed, qkv_weight))
    gated, entered = normed_swiglu(x, residual, norm, 1e-6, 1.0, None, gate_up, True)
    assert torch.equal(entered, total)
    assert torch.equal(gated, linear_swiglu(normed, gate_up, True))
    number, caches = torch.tensor([3]), torch.randn(2, 2, 3, 16, 1, 6)
    rotation = Rotation(number, torch.rand(3), number, None, 1e-6, 0.0)
    caches[1] = caches[0]
    where = torch.tensor([[2]], dtype=torch.int32), torch.tensor([0])
    numbers = *where, number, number, torch.ones_like(number), 5, 1
    found = attend_step_parts(qkv, rotation, caches[0], *numbers, o)
    q = rotate_store(
        qkv, number, rotation.inverse_frequencies, caches[1], *where, number, None, 1e-6
    )
    assert torch.equal(found, linear_parts(attend_step(q, caches[1], *numbers), o))
    assert torch.equal(caches[0], caches[1])
