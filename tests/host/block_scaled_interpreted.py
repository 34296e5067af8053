"""Prints, as JSON, how far products of rows in FP8, interpreted on the CPU, are from float64.

Run with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

sys.path.insert(0, str(Path(__file__).parent))
from parse_linear_interpreted import distance
from quantized_cases import exact, quantize, rows_like

from parse_runtime.kernels import experts, swiglu
from parse_runtime.kernels.activations import fp8_activations, rounded
from parse_runtime.kernels.cuda import block_scaled, norm
from parse_runtime.kernels.cuda import experts as cuda_experts
from parse_runtime.kernels.quantized import BLOCK

SHAPES = ((1, 100, 96), (5, 320, 520), (17, 200, 1024), (70, 400, 130))
_CONVERT = interpreter._convert_float


def convert(values: np.ndarray, source: object, target: object, rounding: object) -> np.ndarray:
    """The interpreter's own conversions to and from e4m3 lose carries and NaN."""
    if tl.float8e4nv not in (source, target):
        return _CONVERT(values, source, target, rounding)
    types = {tl.float8e4nv: torch.float8_e4m3fn, tl.float16: torch.float16}
    given = torch.from_numpy(np.ascontiguousarray(values))
    given = given.view(types[source]) if source in types else given
    found = given.to(types.get(target, torch.float32))
    return found.view(torch.uint8 if target == tl.float8e4nv else found.dtype).numpy()


def quantized_rows() -> int:
    """Values that are others than those of the reference, NaN and infinities among them."""
    differing = 0
    for count, _, k in SHAPES:
        for x in rows_like(count, k):
            expected, found = rounded(x), dequantized(block_scaled.quantize_rows(x))
            differing += int((found != expected).sum() - expected.isnan().sum())
    return differing


def dequantized(rows: block_scaled.QuantizedRows) -> Tensor:
    wide = rows.scale.T.repeat_interleave(BLOCK, 1)
    return rows.values.float() * wide[:, : rows.values.shape[1]]


def normed_rows() -> int:
    """Values that a norm quantizes to others than are found of what it gives otherwise."""
    differing = 0
    for spans, width in ((0, 40), (0, 200), (2, 1100), (0, 1280)):
        size = (spans, 3, width) if spans else (3, width)
        x, residual, weight = torch.randn(*size), torch.randn(3, width), torch.randn(width)
        for before in (None, residual):
            arguments = x, before, weight, 1e-6, float(spans)
            normed, total = norm.add_rms_norm(*arguments)
            rows, same = norm.add_rms_norm_fp8(*arguments)
            expected = dequantized(block_scaled.quantize_rows(normed))
            differing += int((dequantized(rows) != expected).sum() + (same != total).sum())
    return differing


def products() -> dict[str, float]:
    found = {}
    for count, n, k in SHAPES:
        half = -(-n // BLOCK) * BLOCK
        w, gates = (quantize(torch.randn(size, k) * k**-0.5) for size in (n, 2 * half))
        x, bias = torch.randn(count, k), torch.randn(n)
        for tiles in (None, block_scaled.Tiles(16, 64, 4, 2)):
            shape = f"{count}x{n}x{k} {tiles}"
            product = rounded(x).double() @ exact(w).T
            ours = block_scaled.block_scaled(x, w, None, tiles)
            found[f"product {shape}"] = distance(ours, product)
            ours = block_scaled.block_scaled(x, w, bias, tiles)
            found[f"bias {shape}"] = distance(ours, product + bias)
            gelu = count in (5, 70)
            gated = swiglu.swiglu(rounded(x).double() @ exact(gates).T, gelu)
            ours = block_scaled.block_scaled_swiglu(x, gates, gelu, tiles)
            found[f"swiglu {shape}"] = distance(ours, gated)
    return found


def mixture() -> dict[str, float]:
    """Experts, one of whose matrices may have no scales, beside the reference."""
    found = {}
    cuda_experts.streams = lambda x: True  # as on CUDA, where few rows are streamed
    for count, hidden, width in ((1, 64, 128), (5, 200, 256), (70, 130, 128)):
        x, router = torch.randn(count, hidden), torch.randn(6, hidden)
        plain = torch.randn(6, 2 * width, hidden) * hidden**-0.5
        down = quantize(torch.randn(6, hidden, width) * width**-0.5)
        for gate_up in (quantize(plain), plain):
            with fp8_activations(True):
                arguments = x, router, gate_up, down, 3, True
                ours, theirs = (m.experts(*arguments) for m in (cuda_experts, experts))
            name = f"experts {count}x{hidden}x{width} {gate_up is plain}"
            found[name] = distance(ours, theirs)
    return found


def varied() -> int:
    """Rows whose bits change with the rows beside them."""
    x, w = torch.randn(70, 200), quantize(torch.randn(100, 200))
    whole, changed = block_scaled.block_scaled(x, w), 0
    for rows in (slice(3, 4), slice(10, 27), slice(5, 70)):
        changed += int((block_scaled.block_scaled(x[rows], w) != whole[rows]).any(1).sum())
    return changed


def nonfinite() -> list[bool]:
    """Whether rows with a NaN and an infinity are NaN, and those beside them are as without."""
    x, w = torch.randn(6, 200), quantize(torch.randn(100, 200))
    expected: Tensor = block_scaled.block_scaled(x, w)
    x[1, 7], x[4, 150] = torch.nan, -torch.inf
    found = block_scaled.block_scaled(x, w)
    good = [0, 2, 3, 5]
    return [bool(found[[1, 4]].isnan().all()), torch.equal(found[good], expected[good])]


if __name__ == "__main__":
    torch.manual_seed(0)
    interpreter._convert_float = convert
    report = {
        "quantized_rows": quantized_rows(), "normed_rows": normed_rows(),
        "products": products(), "mixture": mixture(), "varied": varied(), "nonfinite": nonfinite(),
    }  # fmt: skip
    print(json.dumps(report))
