"""Products of rows in FP8 with weights in FP8, for passes of many rows.

A tile's product of BLOCK columns of K is one of e4m3 numbers on the tensor cores; times the rows'
and the weight block's scale it is added to the sum in float32 registers. Tiles leave a row's bits
alone: it is summed block by block in ascending order, whatever is beside it. Above STREAMED_ROWS
rows the library's product is used where it can be: it is faster, and chooses by their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.activations import LARGEST, SMALLEST
from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, wait
from parse_runtime.kernels.cuda.swiglu import activate, swiglu
from parse_runtime.kernels.cuda.tiles import PROCESSORS, shared_memory
from parse_runtime.kernels.quantized import BLOCK, Quantized
from parse_runtime.kernels.rows import STREAMED_ROWS


@dataclass(frozen=True)
class QuantizedRows:
    """Rows [T, K] in FP8: `values` e4m3, `scale` float32 [ceil(K / BLOCK), T].

    `dtype` is what they were in, and what their products are in.
    """

    values: Tensor
    scale: Tensor
    dtype: torch.dtype

    @staticmethod
    def empty(count: int, k: int, like: Tensor) -> QuantizedRows:
        """Memory for so many rows, which are in the type of `like` otherwise."""
        values = torch.empty(count, k, dtype=torch.float8_e4m3fn, device=like.device)
        scale = torch.empty(triton.cdiv(k, BLOCK), count, dtype=torch.float32, device=like.device)
        return QuantizedRows(values, scale, like.dtype)


@dataclass(frozen=True)
class Tiles:
    """Rows and columns of a tile, warps, pipeline stages."""

    rows: int
    columns: int
    warps: int
    stages: int


def choose(count: int, n: int) -> Tiles:
    """Tiles for `count` rows and `n` columns (benchmarks/results/parse_fp8.json).

    Shared memory has room for all stages of one program a multiprocessor, of two, or of three.
    """
    rows, columns = 64, 128
    programs = triton.cdiv(count, rows) * triton.cdiv(n, columns)
    few = programs <= PROCESSORS
    stages = 6 if few else 3 if 2 * PROCESSORS < programs <= 3 * PROCESSORS else 4
    return Tiles(rows, columns, 4, min(stages, shared_memory() // ((rows + columns) * BLOCK)))


@opaque
def quantize_rows(x: Tensor) -> QuantizedRows:
    """Rows x [T, K] in FP8: they stand for `parse_runtime.kernels.activations.rounded`."""
    count, k = x.shape
    if x.stride(1) != 1:
        x = x.contiguous()
    rows = QuantizedRows.empty(count, k, x)
    _quantize_rows[triton.cdiv(count, 16), rows.scale.shape[0]](
        x, rows.values, rows.scale, count, k, x.stride(0), ROWS=16, BLOCK=BLOCK, num_warps=4,
        **OPTIONS,
    )  # fmt: skip
    return rows


@opaque
def block_scaled(
    x: Tensor | QuantizedRows, weight: Quantized, bias: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """Rows x [T, K] in FP8 times a weight [N, K] transposed, plus bias [N]: [T, N]."""
    rows = quantize_rows(x) if isinstance(x, Tensor) else x
    if tiles is None and by_library(rows, weight):
        product = scaled_mm(rows, weight)
        return product if bias is None else product + bias
    count, (n, k) = rows.values.shape[0], weight.values.shape
    tiles = tiles or choose(count, n)
    out = torch.empty(count, n, dtype=rows.dtype, device=rows.values.device)
    _block_scaled[triton.cdiv(count, tiles.rows), triton.cdiv(n, tiles.columns)](
        rows.values, rows.scale, weight.values, weight.scale, bias, out, count, n, k,
        ROWS=tiles.rows, COLUMNS=tiles.columns, EVEN=k % BLOCK == 0, BLOCK=BLOCK,
        STAGES=tiles.stages, num_warps=tiles.warps, num_stages=tiles.stages, **OPTIONS,
    )  # fmt: skip
    return out


@opaque
def block_scaled_swiglu(
    x: Tensor | QuantizedRows, gate_up: Quantized, gelu: bool = False, tiles: Tiles | None = None
) -> Tensor:
    """`parse_runtime.kernels.swiglu.linear_swiglu` of rows x [T, K] in FP8 and [2I, K]."""
    rows = quantize_rows(x) if isinstance(x, Tensor) else x
    if tiles is None and by_library(rows, gate_up):
        return swiglu(scaled_mm(rows, gate_up), gelu)
    (count, k), n = rows.values.shape, gate_up.values.shape[0] // 2
    tiles = tiles or choose(count, 2 * n)
    columns = tiles.columns // 2
    out = torch.empty(count, n, dtype=rows.dtype, device=rows.values.device)
    _block_scaled_swiglu[triton.cdiv(count, tiles.rows), triton.cdiv(n, columns)](
        rows.values, rows.scale, gate_up.values, gate_up.scale, out, count, n, k,
        ROWS=tiles.rows, COLUMNS=columns, EVEN=k % BLOCK == 0, BLOCK=BLOCK, GELU=gelu,
        STAGES=tiles.stages, num_warps=tiles.warps, num_stages=tiles.stages, **OPTIONS,
    )  # fmt: skip
    return out


def by_library(rows: QuantizedRows, weight: Quantized) -> bool:
    """Whether the library's product is used: it needs Hopper, whole blocks, aligned scales."""
    (count, k), n = rows.values.shape, weight.values.shape[0]
    whole = n % BLOCK == 0 and k % (4 * BLOCK) == 0 and count % 4 == 0
    return count > STREAMED_ROWS and whole and _has_library()


def scaled_mm(rows: QuantizedRows, weight: Quantized) -> Tensor:
    """The product [T, N] by the library (cuBLAS)."""
    return F.scaled_mm(
        rows.values, weight.values.t(), rows.scale.t(), F.ScalingType.BlockWise1x128,
        weight.scale.t(), F.ScalingType.BlockWise128x128, output_dtype=rows.dtype,
    )  # fmt: skip


@cache
def _has_library() -> bool:
    """CuBLAS has these scales on Hopper alone, and torch since 2.10."""
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    return hopper and hasattr(F, "scaled_mm")


_LARGEST, _SMALLEST = tl.constexpr(LARGEST), tl.constexpr(SMALLEST)


@triton.jit(do_not_specialize=["count"])
def _quantize_rows(
    x, values, scale, count, k, x_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    release()
    wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    there = (row < count)[:, None] & (at < k)
    own = row.to(tl.int64)[:, None]
    tile = tl.load(x + own * x_stride + at, there, other=0.0).to(tl.float32)
    found, factors = to_fp8(tile)
    tl.store(values + own * k + at, found, there)
    tl.store(scale + tl.program_id(1).to(tl.int64) * count + row, factors, row < count)


@triton.jit
def to_fp8(groups):
    """Float32 groups [G, BLOCK] as e4m3, and the scale of each [G]."""
    largest = tl.maximum(tl.max(tl.abs(groups), 1), _SMALLEST)
    values = groups * tl.div_rn(_LARGEST, largest)[:, None]
    return values.to(tl.float8e4nv), tl.div_rn(largest, _LARGEST)


@triton.jit(do_not_specialize=["count"])
def _block_scaled(
    x, x_scale, weight, scale, bias, out, count, n, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x_row, x_scale = _rows(x, x_scale, row, count, k)
    w_row = weight + tl.minimum(column, n - 1).to(tl.int64)[:, None] * k
    groups = tl.cdiv(k, BLOCK)
    scale += tl.program_id(1) * COLUMNS // BLOCK * groups
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for group in tl.range(groups, num_stages=STAGES):
        a = _tile(x_row, group, k, EVEN, BLOCK)
        w = _tile(w_row, group, k, EVEN, BLOCK)
        factor = tl.load(x_scale + group * count) * tl.load(scale + group)
        total += tl.dot(a, w.T) * factor[:, None]
    if bias is not None:
        total += tl.load(bias + tl.minimum(column, n - 1)).to(tl.float32)[None, :]
    out += row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(out, total, (row < count)[:, None] & (column < n)[None, :])


@triton.jit(do_not_specialize=["count"])
def _block_scaled_swiglu(
    x, x_scale, weight, scale, out, count, n, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr, BLOCK: tl.constexpr,
    GELU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x_row, x_scale = _rows(x, x_scale, row, count, k)
    w_row = weight + tl.minimum(column, n - 1).to(tl.int64)[:, None] * k
    up_row = w_row + n.to(tl.int64) * k
    groups = tl.cdiv(k, BLOCK)
    scale += tl.program_id(1) * COLUMNS // BLOCK * groups
    up_scale = scale + tl.cdiv(n, BLOCK) * groups
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for group in tl.range(groups, num_stages=STAGES):
        a = _tile(x_row, group, k, EVEN, BLOCK)
        w = _tile(w_row, group, k, EVEN, BLOCK)
        v = _tile(up_row, group, k, EVEN, BLOCK)
        factor = tl.load(x_scale + group * count)[:, None]
        gate += tl.dot(a, w.T) * (factor * tl.load(scale + group))
        up += tl.dot(a, v.T) * (factor * tl.load(up_scale + group))
    out += row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(out, activate(gate, GELU) * up, (row < count)[:, None] & (column < n)[None, :])


@triton.jit
def _rows(x, x_scale, row, count, k):
    """Where a program's rows and their scales are; past the last row, that row's."""
    own = tl.minimum(row, count - 1)
    return x + own.to(tl.int64)[:, None] * k, x_scale + own


@triton.jit
def _tile(rows, group, k, EVEN: tl.constexpr, BLOCK: tl.constexpr):
    at = group * BLOCK + tl.arange(0, BLOCK)[None, :]
    if EVEN:
        return tl.load(rows + at)
    return tl.load(rows + at, at < k, other=0.0)
