"""Linear, fused and expert kernels without a GPU: references, and Triton's interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report

from parse_runtime.kernels.experts import experts, route
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.quantized import Quantized
from parse_runtime.kernels.streamed import of_ranks
from parse_runtime.kernels.swiglu import linear_swiglu

DTYPES = torch.float8_e4m3fn, torch.bfloat16, torch.float32
"""Of weights."""


def test_interpreted_kernels_near_the_references():
    report = kernel_report("parse_linear_interpreted.py", interpreted=True)
    assert report.pop("grouped")
    assert report.pop("compiled")
    assert report.pop("sixteens")
    for name, error in report.items():
        assert error < 2e-6, name


@given(
    n=st.integers(1, 400), k=st.integers(1, 200), count=st.integers(1, 64),
    gated=st.booleans(), shares=st.booleans(), ranks=st.booleans(), dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_programs_hold_no_more_than_their_span_has(n, k, count, gated, shares, dtype, ranks):
    pytest.importorskip("triton")
    from parse_runtime.kernels.cuda.shares import choose_shares
    from parse_runtime.kernels.cuda.tiles import (
        PROCESSORS,
        RESIDENT,
        choose,
        shared_memory,
        tile_rows,
    )

    weight = torch.empty(64 * n, 16 * k, dtype=dtype, device="meta")
    scaled = dtype == torch.float8_e4m3fn
    rows = torch.bfloat16 if scaled else dtype
    shares = shares and not scaled
    with of_ranks(ranks):
        own = () if shares else (gated,)
        tiles = (choose_shares if shares else choose)(weight, rows, count, *own)
    assert tiles.spans == 1 or not (shares or gated)
    line = tiles.columns * dtype.itemsize + tile_rows(count) * rows.itemsize
    beside = 2 if scaled else 1
    assert beside * tiles.stages * tiles.depth * line <= shared_memory()
    every = -(-16 * k // tiles.depth)
    last = every - -(-every // tiles.spans) * (tiles.spans - 1)
    assert last > 0
    room = 2 * PROCESSORS if n <= 2 * PROCESSORS else RESIDENT
    fits = n * tiles.spans <= room and 16 * k % tiles.depth == 0
    if fits and ranks and count <= 16 and dtype == torch.bfloat16:
        assert 0 < tiles.early <= last
    else:
        assert not tiles.early
    if tiles.words:
        assert scaled and count <= 16 and 16 * k % tiles.depth == tiles.depth % 32 == 0


@given(
    n=st.integers(1, 1000), k=st.integers(1, 200), gated=st.booleans(), ranks=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_a_rows_sums_are_cut_alike_whatever_the_number_of_rows(n, k, gated, ranks, dtype):
    pytest.importorskip("triton")
    from parse_runtime.kernels.cuda.tiles import choose

    weight = torch.empty(64 * n, 16 * k, dtype=dtype, device="meta")
    rows = torch.float32 if dtype == torch.float32 else torch.bfloat16
    with of_ranks(ranks):
        ways = [choose(weight, rows, count, gated) for count in (1, 16, 17, 32, 33, 64)]
    assert len({(way.spans, way.apart) for way in ways}) == 1
    if ways[0].spans > 1 or ways[0].apart or dtype == torch.float8_e4m3fn:
        assert len({way.depth for way in ways}) == 1


def test_shares_are_sent_where_programs_suffice() -> None:
    """Those of large matrices: of small ones K is split among programs, which a sum needs whole."""
    pytest.importorskip("triton")
    from parse_runtime.kernels.cuda.shares import sends

    for columns, sent in ((1024, False), (4032, False), (4096, True), (5120, True)):
        weight = torch.empty(columns, 1280, dtype=torch.bfloat16, device="meta")
        assert sends(weight) == sent, columns
        assert not sends(Quantized(weight, weight)), "those in FP8 are split, too"


def test_parts_add_up_to_the_product():
    x, w, bias = torch.randn(5, 30), torch.randn(20, 30), torch.randn(20)
    torch.testing.assert_close(linear_parts(x, w, bias).sum(0), F.linear(x, w, bias))
    torch.testing.assert_close(linear(x, w), x @ w.T)


def test_parts_are_added_before_the_norm():
    parts, residual, weight = torch.randn(3, 4, 20), torch.randn(4, 20), torch.randn(20)
    normed, total = add_rms_norm(parts, residual, weight, 1e-5)
    torch.testing.assert_close(total, residual + parts.sum(0))
    torch.testing.assert_close(normed, F.rms_norm(total, (20,), weight, 1e-5))


def test_gates_come_first():
    x, w = torch.randn(3, 10), torch.randn(8, 10)
    expected = F.silu(x @ w[:4].T) * (x @ w[4:].T)
    torch.testing.assert_close(linear_swiglu(x, w), expected)


@settings(max_examples=25)
@given(count=st.integers(1, 9), number=st.integers(1, 8), width=st.integers(1, 12), data=st.data())
def test_experts_are_the_weighted_sum_of_the_chosen(count, number, width, data):
    top_k = data.draw(st.integers(1, number))
    normalize = data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 1 << 16)))
    x, router = torch.randn(count, 6), torch.randn(number, 6)
    gate_up, down = torch.randn(number, 2 * width, 6), torch.randn(number, 6, width)
    weights, chosen = route(x @ router.T, top_k, normalize)
    if normalize:
        torch.testing.assert_close(weights.sum(-1), torch.ones(count))
    expected = torch.zeros(count, 6)
    for row in range(count):
        for weight, expert in zip(weights[row], chosen[row], strict=True):
            y = linear_swiglu(x[row : row + 1], gate_up[expert])
            expected[row] += weight * (y @ down[expert].T)[0]
    found = experts(x, router, gate_up, down, top_k, normalize)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
