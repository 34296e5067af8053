"""Prints, as JSON, how far the Triton kernels, interpreted on the CPU, are from the references.

Run with TRITON_INTERPRET=1. Float32 only: the interpreter's product of bfloat16 is not one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from quantized_cases import exact, quantize

from parse_runtime.kernels import experts, norm, rotate, swiglu
from parse_runtime.kernels.cuda import experts as cuda_experts
from parse_runtime.kernels.cuda import norm as cuda_norm
from parse_runtime.kernels.cuda import rotate as cuda_rotate
from parse_runtime.kernels.cuda import routing, stream
from parse_runtime.kernels.cuda import swiglu as cuda_swiglu
from parse_runtime.kernels.cuda.dequantize import dequantize
from parse_runtime.kernels.cuda.tiles import Tiles
from parse_runtime.kernels.cuda.words import WORD, placed
from parse_runtime.kernels.quantized import plain, weight_of


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def products() -> dict[str, float]:
    found = {}
    for count, n, k in ((1, 100, 96), (5, 1040, 520), (17, 48, 1024), (33, 40, 64)):
        x, w, bias = torch.randn(count, k), torch.randn(n, k) * k**-0.5, torch.randn(n)
        expected = x.double() @ w.double().T + bias
        gates = torch.randn(2 * n, k) * k**-0.5
        shape = f"{count}x{n}x{k}"
        found[f"stream {shape}"] = distance(stream.stream(x, w, bias), expected)
        found[f"parts {shape}"] = distance(stream.stream_parts(x, w, bias).sum(0), expected)
        gelu = count in (5, 33)
        gated = swiglu.swiglu(x @ gates.T, gelu)
        found[f"swiglu {shape}"] = distance(cuda_swiglu.swiglu(x @ gates.T, gelu), gated)
        streamed = cuda_swiglu.stream_swiglu(x, gates, gelu)
        found[f"stream_swiglu {shape}"] = distance(streamed, gated)
        for early in {1, k // 64} if k % 32 == 0 else ():  # of at least so many in a span
            tiles = Tiles(16, 32, 2, 2, early)
            parts = stream.stream_parts(x, w, bias, tiles)
            found[f"early {early} parts {shape}"] = distance(parts.sum(0), expected)
            streamed = cuda_swiglu.stream_swiglu(x, gates, gelu, replace(tiles, spans=1))
            found[f"early {early} stream_swiglu {shape}"] = distance(streamed, gated)
    return found


def quantized() -> dict[str, float]:
    """Products with FP8 weights, whose last blocks are cut off."""
    found = {}
    for count, n, k in ((1, 100, 96), (5, 1040, 520), (17, 200, 1024), (33, 400, 130)):
        x, w, bias = torch.randn(count, k), quantize(torch.randn(n, k) * k**-0.5), torch.randn(n)
        expected = x.double() @ exact(w).T + bias
        shape = f"{count}x{n}x{k}"
        found[f"fp8 stream {shape}"] = distance(stream.stream(x, w, bias), expected)
        found[f"fp8 parts {shape}"] = distance(stream.stream_parts(x, w, bias).sum(0), expected)
        made = dequantize(w.values, w.scale, torch.float32)
        found[f"dequantize {shape}"] = float((made != plain(w, torch.float32)).sum())
        half = -(-n // 128) * 128
        gates, gelu = quantize(torch.randn(2 * half, k) * k**-0.5), count in (5, 33)
        gated = swiglu.swiglu(x.double() @ exact(gates).T, gelu)
        streamed = cuda_swiglu.stream_swiglu(x, gates, gelu)
        found[f"fp8 stream_swiglu {shape}"] = distance(streamed, gated)
    return found


def words() -> dict[str, float]:
    """Products of bfloat16 rows with FP8 weights that are read as words."""
    found = {}
    for count, n, k, depth in ((1, 100, 96, 32), (5, 1040, 512, 128), (16, 64, 192, 64)):
        wide, bias = torch.randn(count, k + 3).bfloat16(), torch.randn(n)
        w = quantize(torch.randn(n, k) * k**-0.5)
        half = -(-n // 128) * 128
        gates = quantize(torch.randn(2 * half, k) * k**-0.5)
        tiles = Tiles(64, depth, 1 if depth == k else 2, 2, words=True)
        for first in (0, 3):  # columns of a wider tensor, of which a word may lie askew
            x = wide[:, first : first + k]
            expected = x.double() @ exact(w).T + bias
            parts = stream.stream_parts(x, w, bias, tiles)
            shape = f"{count}x{n}x{k} {first}"
            found[f"words {shape}"] = distance(parts.sum(0), expected)
            streamed = cuda_swiglu.stream_swiglu(x, gates, False, replace(tiles, spans=1))
            gated = swiglu.swiglu(x.double() @ exact(gates).T, False)
            # The interpreter cuts off what bfloat16 has no bits for.
            far = ~((streamed - gated).abs() <= gated.abs() / 128)
            found[f"words stream_swiglu {shape}"] = float(far.sum())
    return found


@triton.jit
def _place(out, WORDS: tl.constexpr):
    first = tl.arange(0, WORDS)[None, :] * WORD
    columns = placed(first, first + 1, first + 2, first + 3)
    tl.store(out + tl.arange(0, WORDS * WORD)[None, :], columns)


def sixteens() -> bool:
    """Of columns that one `mma` has of 32, each thread two of a word, all are of one sixteen."""
    place = torch.zeros(128, dtype=torch.int32)
    _place[(1,)](place, WORDS=32)
    found = []
    for group in place.view(4, 32):
        for half in (0, 2):  # of the four columns that a thread has in a word
            own = group.view(8, 4)[:, half : half + 2].flatten()
            found.append(sorted(own.tolist()))
    return sorted(found) == [list(range(16 * i, 16 * i + 16)) for i in range(8)]


def fused() -> dict[str, float]:
    found = {}
    for spans in (0, 3):
        size = (spans, 3) if spans else (3,)
        x, residual, weight = torch.randn(*size, 200), torch.randn(3, 200), torch.randn(200)
        for before in (None, residual):
            ours = cuda_norm.add_rms_norm(x, before, weight, 1e-6, spans / 3)
            theirs = norm.add_rms_norm(x, before, weight, 1e-6, spans / 3)
            name = f"norm {spans} {before is not None}"
            found[name] = max(map(distance, ours, theirs))
        for head_dim in (64, 80):
            qkv = torch.randn(*size, (4 + 2 * 2) * head_dim)
            positions, rows = torch.tensor([5, 100, 3000]), torch.tensor([3, 25, 19])
            tables = torch.randperm(9, dtype=torch.int32)[:6].view(3, 2)
            frequencies = 10000 ** -torch.rand(head_dim // 2)
            for norms in (None, (torch.randn(head_dim), torch.randn(head_dim))):
                given = (norms, 1e-6, spans / 3)
                for slots in (torch.tensor([2]), torch.tensor([2, 0, 1])):
                    # As a layer's part of a cache: blocks are further apart than they are long.
                    expected = torch.zeros(9, 2, 16, 2, head_dim).transpose(0, 1)
                    where = tables, slots, rows
                    expected_q = rotate.rotate_store(
                        qkv, positions, frequencies, expected, *where, *given
                    )
                    for few in (64, 0):  # rows: one kernel is of few, the other of more
                        cuda_rotate.STREAMED_ROWS = few
                        cache = torch.zeros(9, 2, 16, 2, head_dim).transpose(0, 1)
                        q = cuda_rotate.rotate_store(
                            qkv, positions, frequencies, cache, *where, *given
                        )
                        name = f"rotate {spans} {head_dim} {norms is not None} {len(slots)} {few}"
                        found[name] = max(distance(q, expected_q), distance(cache, expected))
    return found


def mixture() -> dict[str, float]:
    # As on CUDA, where few rows are streamed.
    cuda_experts.streams = lambda x: True
    found = {}
    for count, hidden, width, number, top_k in (
        (1, 64, 32, 8, 2), (5, 100, 40, 6, 3), (33, 64, 32, 128, 8), (70, 64, 96, 16, 4),
    ):  # fmt: skip
        x, router = torch.randn(count, hidden), torch.randn(number, hidden)
        gate_up = torch.randn(number, 2 * width, hidden) * hidden**-0.5
        down = torch.randn(number, hidden, width) * width**-0.5
        for normalize in (True, False):
            arguments = (x, router, gate_up, down, top_k, normalize)
            name = f"experts {count} {normalize}"
            found[name] = distance(cuda_experts.experts(*arguments), experts.experts(*arguments))
            begin = number // 3  # of a rank that has the last two thirds
            arguments = x, router, gate_up[begin:], down[begin:], top_k, normalize
            arguments = *arguments, torch.tensor([begin])
            name = f"own experts {count} {normalize}"
            found[name] = distance(cuda_experts.experts(*arguments), experts.experts(*arguments))
    return found


def quantized_mixture() -> dict[str, float]:
    found = {}
    for count, hidden, width in ((1, 64, 128), (5, 200, 256), (70, 130, 128)):
        x, router = torch.randn(count, hidden), torch.randn(6, hidden)
        gate_up = quantize(torch.randn(6, 2 * width, hidden) * hidden**-0.5)
        down = quantize(torch.randn(6, hidden, width) * width**-0.5)
        ours = cuda_experts.experts(x, router, gate_up, down, 3, True)
        theirs = experts.experts(x.double(), router.double(), exact(gate_up), exact(down), 3, True)
        found[f"fp8 experts {count}x{hidden}x{width}"] = distance(ours, theirs)
    return found


def grouped() -> bool:
    """Every pair is in exactly one block, which is of its expert, and in the order of rows."""
    for rows in (16, 64):
        chosen = torch.randint(0, 10, (60, 3), dtype=torch.int32)
        order, blocks = routing.group(chosen, 12, rows)
        flat = chosen.flatten()
        if order.tolist() != flat.argsort(stable=True).tolist():
            return False
        met = []
        for expert, first, last in blocks.T.tolist():
            if expert >= 0:
                pairs = order[first:last].long()
                met += pairs.tolist()
                if not 0 < last - first <= rows or (flat[pairs] != expert).any():
                    return False
        if sorted(met) != list(range(180)):
            return False
    return True


def compiled() -> bool:
    """Under torch.compile launches stay as they are: what lies between alone is compiled."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append([node.target for node in graph.graph.nodes if node.op.startswith("call")])
        return graph.forward

    def layer(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        y, total = cuda_norm.add_rms_norm(x * 2, None, weights["norm"], 1e-6)
        return cuda_swiglu.stream_swiglu(y, weight_of(weights, "gate_up")) + total

    x, fp8, same = torch.randn(3, 128), quantize(torch.randn(256, 128)), True
    for gate_up in (
        {"gate_up": torch.randn(256, 128)},
        {"gate_up": fp8.values, "gate_up_scale": fp8.scale},
    ):
        weights = {**gate_up, "norm": torch.randn(128)}
        found = torch.compile(layer, backend=backend)(x, weights)
        same &= torch.equal(found, layer(x, weights))
    return same and len(graphs) > 1 and all(len(calls) == 1 for calls in graphs)


if __name__ == "__main__":
    torch.manual_seed(0)
    flags = {"grouped": grouped(), "compiled": compiled(), "sixteens": sixteens()}
    distances = {**products(), **quantized(), **words(), **fused()}
    print(json.dumps({**distances, **mixture(), **quantized_mixture(), **flags}))
