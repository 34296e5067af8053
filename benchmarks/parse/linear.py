"""Linear, fused and expert kernels of PARSE against the memory's bandwidth and torch's products.

Qwen3-14B's five matrices, and the experts of Qwen3-30B-A3B, bfloat16. Times are medians over
replays of a CUDA graph that reads more weights than the second-level cache holds; weight bytes
over time are given in GB/s beside the bandwidth of a copy. Rows are written as they are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.parse.measure import copy_bandwidth, median_seconds
from benchmarks.report import RESULTS, Output, write_results
from parse_runtime.kernels.attend_step import attend_step
from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.rotate import rotate_store
from parse_runtime.kernels.swiglu import linear_swiglu
from parse_runtime.signature.sizes import BLOCK

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 5120, 17408, 40, 8, 128
MATRICES: dict[str, tuple[int, int, Callable[[Tensor, Tensor], Tensor]]] = {
    "qkv": (7168, HIDDEN, linear_parts),
    "o": (HIDDEN, HIDDEN, linear_parts),
    "gate_up": (2 * INTERMEDIATE, HIDDEN, linear_swiglu),
    "down": (HIDDEN, INTERMEDIATE, linear_parts),
    "head": (151936, HIDDEN, linear),
}
COUNTS = (1, 4, 16, 17, 32, 64)
CONTEXT = 512


def normal(*shape: int, std: float = 1.0) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, std)


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


def layer() -> Iterator[dict[str, Any]]:
    """A decoder layer's chain of kernels, 20 layers over two layers' weights."""
    sizes = [MATRICES[name][:2] for name in ("qkv", "o", "gate_up", "down")]
    weights = [[normal(n, k, std=0.02) for n, k in sizes] for _ in range(2)]
    norm, head_norm = normal(HIDDEN), normal(HEAD_DIM)
    cache = normal(2, 1024 // BLOCK, BLOCK, KV_HEADS, HEAD_DIM)
    tables = torch.arange(1024 // BLOCK, dtype=torch.int32, device="cuda")[None]
    frequencies = torch.rand(HEAD_DIM // 2, device="cuda")
    slots = torch.zeros(1, dtype=torch.int64, device="cuda")
    for count in (1, 8, 16):
        position = CONTEXT + torch.arange(count, device="cuda")
        first = torch.full_like(position, CONTEXT)
        seen = (2 << torch.arange(count, device="cuda")) - 1
        x = normal(count, HIDDEN)

        def run(
            count: int = count, position: Any = position, first: Any = first, seen: Any = seen,
            x: Any = x,
        ) -> Tensor:  # fmt: skip
            added, hidden = x, None
            for i in range(20):
                qkv, o, gate_up, down = weights[i % 2]
                y, hidden = add_rms_norm(added, hidden, norm, 1e-6)
                q = rotate_store(
                    linear_parts(y, qkv), position, frequencies, cache, tables, slots, position,
                    (head_norm, head_norm), 1e-6,
                )  # fmt: skip
                a = attend_step(q, cache, tables, slots, first, first, seen, 1024, count)
                y, hidden = add_rms_norm(linear_parts(a, o), hidden, norm, 1e-6)
                added = linear_parts(linear_swiglu(y, gate_up), down)
            return added

        seconds = replayed(run) / 20
        size = 2 * sum(n * k for n, k in sizes)
        yield {"rows": count, "us": seconds * 1e6, "gb_s": size / seconds / 1e9}


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


PARTS = {"matrices": matrices, "layer": layer, "experts": mixtures}


def run(output: Output = RESULTS / "parse_linear.json") -> None:
    """Measure matrix products, a layer's chain of kernels, and experts."""
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
