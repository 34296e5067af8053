"""Prints, as JSON, how far products of rows in FP8 with weights in FP8 are from float64."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from parse_fp8 import MATRICES, halves, quantized
from parse_linear import Worst, distance, random, same_when_replayed
from quantized_cases import exact, rows_like

from parse_runtime.kernels import experts as reference
from parse_runtime.kernels.activations import fp8_activations, rounded
from parse_runtime.kernels.cuda import block_scaled
from parse_runtime.kernels.cuda.block_scaled import QuantizedRows, quantize_rows
from parse_runtime.kernels.cuda.norm import add_rms_norm, add_rms_norm_fp8
from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.normed import normed_parts, normed_swiglu
from parse_runtime.kernels.quantized import BLOCK, Quantized
from parse_runtime.kernels.swiglu import linear_swiglu

COUNTS = (1, 40, 64, 65, 200, 513)


def rows() -> int:
    """Values of quantized rows that are others than on the CPU, which has more NaN."""
    differing = 0
    for count, k in ((1, 96), (70, 520), (200, 5120)):
        for x in rows_like(count, k):
            for given in (x, x.bfloat16()):
                found, wanted = dequantized(quantize_rows(given.cuda())).cpu(), rounded(given)
                differing += int(((found != wanted) & ~wanted.isnan()).sum())
    return differing


def dequantized(rows: QuantizedRows) -> Tensor:
    wide = rows.scale.t().repeat_interleave(BLOCK, 1)
    return rows.values.float() * wide[:, : rows.values.shape[1]]


def normed() -> int:
    """Values that a norm quantizes to others than are found of what it gives otherwise."""
    differing = 0
    for width in (5120, 4096, 1100):
        x, residual, weight = random(72, width), random(72, width), random(width)
        rows, total = add_rms_norm_fp8(x, residual, weight, 1e-6)
        plain, same = add_rms_norm(x, residual, weight, 1e-6)
        differing += int((dequantized(rows) != dequantized(quantize_rows(plain))).sum())
        differing += int((total != same).sum())
        w, gates = quantized(256, width), halves(256, width)
        fused, total = normed_parts(x, residual, weight, 1e-6, 0.0, None, w)
        differing += int((fused != linear_parts(plain, w)).sum() + (total != same).sum())
        fused, total = normed_swiglu(x, residual, weight, 1e-6, 0.0, None, gates)
        differing += int((fused != linear_swiglu(plain, gates)).sum() + (total != same).sum())
    return differing


def products() -> Worst:
    """Largest relative errors to the float64 product of what the rows in FP8 stand for."""
    worst = Worst()
    note = worst.note
    for dtype in (torch.float32, torch.bfloat16):
        for n, k in MATRICES:
            w, gates, bias = quantized(n, k), halves(n, k), random(n, dtype=dtype)
            for count in COUNTS:
                x = random(count, k, dtype=dtype)
                exactly = rounded(x).double()
                product = exactly @ exact(w).T
                gate, up = (exactly @ exact(gates).T).chunk(2, dim=-1)
                note("linear", dtype, linear(x, w), product)
                note("bias", dtype, linear(x, w, bias), product + bias.double())
                note("swiglu", dtype, linear_swiglu(x, gates), gate * torch.sigmoid(gate) * up)
    return worst


def variations() -> int:
    """Rows whose bits change with up to 64 rows beside them, or with tiles and any number."""
    changed = 0
    for n, k in MATRICES:
        w, gates, x = quantized(n, k), halves(n, k), random(513, k)
        for function, weight in (
            (block_scaled.block_scaled, w), (block_scaled.block_scaled_swiglu, gates),
        ):  # fmt: skip
            whole = function(x, weight, tiles=block_scaled.Tiles(64, 128, 4, 4))
            for count in (1, 33, 64):
                for first in (0, 513 - count):
                    part = slice(first, first + count)
                    changed += int((function(x[part], weight) != whole[part]).any(1).sum())
            for sizes in ((64, 64, 4, 4), (64, 128, 4, 3), (128, 64, 4, 4), (128, 128, 8, 3)):
                found = function(x, weight, tiles=block_scaled.Tiles(*sizes))
                changed += int((found != whole).any(1).sum())
    return changed


def mixture() -> dict[str, float]:
    """Experts beside the same on the CPU; `varied` counts rows that change with those beside."""
    found: dict[str, float] = {"varied": 0}
    for hidden, width, number, top_k in ((1024, 512, 16, 8), (200, 128, 6, 2)):
        router = random(number, hidden, scale=hidden**-0.5)
        weights = quantized(number, 2 * width, hidden), quantized(number, hidden, width)
        cpu = [Quantized(w.values.cpu(), w.scale.cpu()) for w in weights]
        for count in (1, 64, 200):
            # Of float32 rows: on both sides the same experts are chosen.
            x = random(count, hidden, dtype=torch.float32)
            y = experts(x, router.float(), *weights, top_k, True)
            wanted = reference.experts(x.cpu(), router.float().cpu(), *cpu, top_k, True)
            found[f"{number} experts {count}"] = distance(y.cpu(), wanted)
        # Of more rows torch's product may give a router other bits.
        y = experts(x[:64], router.float(), *weights, top_k, True)
        for count in (1, 40):
            for first in (0, 64 - count):
                part = slice(first, first + count)
                rows = experts(x[part], router.float(), *weights, top_k, True)
                found["varied"] += int((rows != y[part]).any(1).sum())
    return found


def nonfinite() -> bool:
    """Rows with a NaN or an infinity are NaN, and leave the others alone."""
    x, w = random(100, 512), quantized(1024, 512)
    expected = linear(x, w)
    x[3, 200], x[90, 1] = torch.nan, torch.inf
    found, bad = linear(x, w), [3, 90]
    good = [i for i in range(100) if i not in bad]
    return bool(found[bad].isnan().all()) and torch.equal(found[good], expected[good])


def captured() -> bool:
    """Replays of a CUDA graph give the bits of direct launches."""
    gates, down, x = quantized(2048, 512), quantized(512, 1024), random(100, 512)

    return same_when_replayed(lambda: [linear(linear_swiglu(x, gates), down)], x)


def main() -> None:
    torch.manual_seed(0)
    with fp8_activations(True):
        report = {
            "rows": rows(), "normed": normed(), "products": products(), "variations": variations(),
            "mixture": mixture(), "nonfinite": nonfinite(), "captured": captured(),
        }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
