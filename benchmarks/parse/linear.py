"""Linear, fused and expert kernels of PARSE against the memory's bandwidth and torch's products.

Qwen3-14B's five matrices and the experts of Qwen3-30B-A3B, in bfloat16, and layers of three models
with weights in bfloat16 and in FP8. Times are medians over replays of a CUDA graph that reads more
weights than the second-level cache holds; weight bytes over time are given in GB/s beside the
bandwidth of a copy. Rows are written as they are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.parse.measure import copy_bandwidth, median_seconds
from benchmarks.parse.models import CONFIGS
from benchmarks.report import RESULTS, Output, write_results
from parse_runtime.kernels.attend_step import attend_step
from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.quantized import BLOCK as SCALED
from parse_runtime.kernels.quantized import Quantized
from parse_runtime.kernels.rotate import rotate_store
from parse_runtime.kernels.streamed import of_ranks
from parse_runtime.kernels.swiglu import linear_swiglu
from parse_runtime.models.config import ModelConfig
from parse_runtime.signature.sizes import BLOCK


def sizes(config: ModelConfig, ranks: int = 1) -> dict[str, tuple[int, int]]:
    """N and K of a layer's matrices, of several ranks those of one."""
    heads, kv_heads = config.heads // ranks, max(1, config.kv_heads // ranks)
    width = config.intermediate // ranks
    return {
        "qkv": ((heads + 2 * kv_heads) * config.head_dim, config.hidden),
        "o": (config.hidden, heads * config.head_dim),
        "gate_up": (2 * width, config.hidden),
        "down": (config.hidden, width),
    }


_MODEL = CONFIGS["qwen3-14b"]
MATRICES: dict[str, tuple[int, int, Callable[[Tensor, Tensor], Tensor]]] = {
    name: (*shape, linear_swiglu if name == "gate_up" else linear_parts)
    for name, shape in sizes(_MODEL).items()
} | {"head": (_MODEL.vocab, _MODEL.hidden, linear)}
COUNTS = (1, 4, 16, 17, 32, 64)
LAYERS = ("qwen3-8b", "qwen3-14b", "qwen3-32b")
ROWS = (1, 16, 32, 64)
CONTEXT, KEYS = 512, 1024
"""Rows of a slot that a layer's attention sees, and that it could see."""


def normal(*shape: int, std: float = 1.0) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, std)


def random_fp8(*shape: int) -> Quantized:
    *outer, n, k = shape
    values = (normal(*shape) * 64).to(torch.float8_e4m3fn)
    scale = torch.rand(*outer, -(-n // SCALED), -(-k // SCALED), device="cuda") + 0.5
    return Quantized(values, scale * 3e-4)


def replayed(call: Callable[[], Any]) -> float:
    """Median seconds of a call that is replayed as a CUDA graph."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return median_seconds(graph.replay)


def matrices() -> Iterator[dict[str, Any]]:
    """By matrix and rows: microseconds and GB/s of our kernel and of torch's product alone."""
    for name, (n, k, function) in MATRICES.items():
        weights = [normal(n, k, std=0.02) for _ in range(max(1, (1 << 30) // (2 * n * k)))]
        for count in COUNTS:
            x = normal(count, k)
            ours = replayed(lambda x=x, f=function, ws=weights: [f(x, w) for w in ws])
            theirs = replayed(lambda x=x, ws=weights: [F.linear(x, w) for w in ws])
            row: dict[str, Any] = {"matrix": name, "rows": count}
            for label, seconds in (("", ours), ("_torch", theirs)):
                row[f"us{label}"] = seconds / len(weights) * 1e6
                row[f"gb_s{label}"] = 2 * n * k * len(weights) / seconds / 1e9
            yield row


def layers() -> Iterator[dict[str, Any]]:
    """A decoder layer's chain of kernels in a decode step, and that of a rank's share of it.

    20 layers over two layers' weights; what ranks exchange is left out.
    """
    for name, ranks, count, fp8 in product(LAYERS, (1, 2, 4), ROWS, (False, True)):
        with of_ranks(ranks > 1):
            seconds, size = layer(CONFIGS[name], ranks, count, fp8)
        row = {"model": name, "weights": "fp8" if fp8 else "bfloat16", "ranks": ranks}
        yield row | {"rows": count, "us": seconds * 1e6, "gb_s": size / seconds / 1e9}


def layer(config: ModelConfig, ranks: int, count: int, fp8: bool) -> tuple[float, int]:
    """Seconds of a layer of `count` slots, a row each, and bytes of its weights."""
    kv_heads, hidden, dim = max(1, config.kv_heads // ranks), config.hidden, config.head_dim
    shapes = sizes(config, ranks).values()
    made = random_fp8 if fp8 else partial(normal, std=0.02)
    weights = [[made(n, k) for n, k in shapes] for _ in range(2)]
    norm, head_norm = normal(hidden), normal(dim)
    blocks = KEYS // BLOCK
    cache = normal(2, count * blocks, BLOCK, kv_heads, dim)
    tables = torch.arange(count * blocks, dtype=torch.int32, device="cuda").view(count, blocks)
    frequencies = torch.rand(dim // 2, device="cuda")
    slots = torch.arange(count, device="cuda")
    position, own = torch.full_like(slots, CONTEXT), torch.ones_like(slots)
    x = normal(count, hidden)

    def run() -> Tensor:
        added, stream = x, None
        for i in range(20):
            qkv, o, gate_up, down = weights[i % 2]
            y, stream = add_rms_norm(added, stream, norm, config.rms_eps)
            q = rotate_store(
                linear_parts(y, qkv), position, frequencies, cache, tables, slots, position,
                (head_norm, head_norm), config.rms_eps,
            )  # fmt: skip
            a = attend_step(q, cache, tables, slots, position, position, own, KEYS, 1)
            y, stream = add_rms_norm(linear_parts(a, o), stream, norm, config.rms_eps)
            added = linear_parts(linear_swiglu(y, gate_up), down)
        return added

    return replayed(run) / 20, (1 if fp8 else 2) * sum(n * k for n, k in shapes)


def mixtures() -> Iterator[dict[str, Any]]:
    """Experts of one layer; GB/s of the distinct chosen experts' weights."""
    number, hidden, width, top_k = 128, 2048, 768, 8
    router, gate_up = normal(number, hidden, std=0.02), normal(number, 2 * width, hidden, std=0.02)
    down = normal(number, hidden, width, std=0.02)
    for count in (1, 2, 4, 8, 16, 32, 64, 512):
        inputs = [normal(count, hidden) for _ in range(8)]
        seconds = replayed(
            lambda xs=inputs: [experts(x, router, gate_up, down, top_k, True) for x in xs]
        )
        chosen = [F.linear(x, router).topk(top_k).indices.unique().numel() for x in inputs]
        size = sum(chosen) * 3 * hidden * width * 2
        yield {
            "rows": count,
            "us": seconds / len(inputs) * 1e6,
            "experts": sum(chosen) / len(inputs),
            "gb_s": size / seconds / 1e9,
        }


PARTS = {"matrices": matrices, "layers": layers, "experts": mixtures}


def run(output: Output = RESULTS / "parse_linear.json") -> None:
    """Measure matrix products, layers' chains of kernels, and experts."""
    with torch.inference_mode():
        report: dict[str, Any] = {
            "device": torch.cuda.get_device_name(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "copy_gb_s": copy_bandwidth("cuda") / 1e9,
        }
        for name, part in PARTS.items():
            report[name] = []
            for row in part():
                report[name].append(row)
                print(row, flush=True)
                write_results(output, report)
