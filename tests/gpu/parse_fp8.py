"""Prints, as JSON, how far products with FP8 weights are from float64."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from parse_linear import COUNTS, Worst, distance, mixture64, random, same_when_replayed
from quantized_cases import exact, quantize

from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.quantized import Quantized, plain
from parse_runtime.kernels.swiglu import linear_swiglu

MATRICES = [(5120, 5120), (1280, 4096), (100, 96), (1040, 520)]
"""Also as a rank of Qwen3-235B-A22B has, and such that end inside a block."""


def quantized(*shape: int) -> Quantized:
    return quantize(random(*shape, dtype=torch.float32, scale=shape[-1] ** -0.5))


def halves(n: int, k: int) -> Quantized:
    """Gates and values, each in whole blocks."""
    return quantized(2 * (-(-n // 128) * 128), k)


def products() -> Worst:
    """Over matrices and numbers of rows."""
    worst = Worst()
    note = worst.note
    for dtype in (torch.float32, torch.bfloat16):
        for n, k in MATRICES if dtype == torch.bfloat16 else MATRICES[2:]:
            w, gates, bias = quantized(n, k), halves(n, k), random(n, dtype=dtype)
            for count in COUNTS:
                x = random(count, k, dtype=dtype)
                product = x.double() @ exact(w).T
                note("linear", dtype, linear(x, w), product)
                aside = torch.cat((x[:, :1], x), 1)[:, 1:]  # no word begins where x does
                note("aside", dtype, linear(aside, w), product)
                note("bias", dtype, linear(x, w, bias), product + bias.double())
                parts = linear_parts(x, w, bias).sum(0)
                note("parts", dtype, parts, product + bias.double())
                gate, up = (x.double() @ exact(gates).T).chunk(2, dim=-1)
                gated = gate * torch.sigmoid(gate) * up
                note("linear_swiglu", dtype, linear_swiglu(x, gates), gated)
                gated = F.gelu(gate, approximate="tanh") * up
                note("linear_geglu", dtype, linear_swiglu(x, gates, True), gated)
    return worst


def dequantized() -> int:
    """Values of matrices that are another than on the CPU."""
    unlike = 0
    for n, k in MATRICES:
        w = quantized(n, k)
        for dtype in (torch.float32, torch.bfloat16):
            expected = plain(Quantized(w.values.cpu(), w.scale.cpu()), dtype)
            unlike += int((plain(w, dtype).cpu() != expected).sum())
    return unlike


def row_variations() -> int:
    """Rows whose bits change with the number of rows beside them."""
    changed = 0
    for (n, k), dtype in itertools.product(MATRICES, (torch.bfloat16, torch.float16)):
        w, gates, x = quantized(n, k), halves(n, k), random(64, k, dtype=dtype)
        for function in (
            lambda x, w=w: linear(x, w),
            lambda x, w=w: linear_parts(x, w).sum(0),
            lambda x, gates=gates: linear_swiglu(x, gates),
        ):
            whole = function(x)
            for count in (1, 2, 5, 16, 17, 40):
                for first in (0, 64 - count):
                    rows = slice(first, first + count)
                    changed += int((function(x[rows]) != whole[rows]).any(1).sum())
    return changed


def mixture() -> dict[str, float]:
    """Experts against float64; `varied` counts rows that change with the rows beside them."""
    found: dict[str, float] = {"varied": 0}
    for hidden, width, number, top_k in ((4096, 1536, 16, 8), (200, 128, 6, 2)):
        router = random(number, hidden, scale=hidden**-0.5)
        gate_up, down = quantized(number, 2 * width, hidden), quantized(number, hidden, width)
        for count in (1, 4, 32, 200):
            x = random(count, hidden)
            y = experts(x, router, gate_up, down, top_k, True)
            expected = mixture64(x, router, exact(gate_up), exact(down), top_k, True)
            found[f"{number} experts {count}"] = distance(y, expected)
            if count == 32:
                for i in range(4):
                    row = experts(x[i : i + 1], router, gate_up, down, top_k, True)
                    found["varied"] += int((row[0] != y[i]).any())
    return found


def captured() -> bool:
    """Kernels for few rows and for many, replayed from a CUDA graph, give the same bits."""
    w, gates, down = quantized(1024, 512), quantized(2048, 512), quantized(512, 1024)
    x, many = random(3, 512), random(100, 512)

    def layer() -> tuple[Tensor, Tensor]:
        parts = linear_parts(linear_swiglu(x, gates), down).sum(0).bfloat16()
        return linear(parts, w), linear(linear_swiglu(many, gates), down)

    return same_when_replayed(layer, x, many)


def main() -> None:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    report = {
        "products": products(),
        "dequantized": dequantized(),
        "row_variations": row_variations(),
        "mixture": mixture(),
        "captured": captured(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
