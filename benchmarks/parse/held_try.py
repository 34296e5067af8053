"""Held and streamed products: the same bits or not, and what either costs. Writes $OUT/held.json.

To be removed once its figures are in parse_held.json.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor

from benchmarks.parse.measure import CapturedSession, median_seconds, wall_seconds
from benchmarks.parse.models import CONFIGS, random_parameters
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.kernels.cuda import held, stream, swiglu, tiles
from parse_runtime.kernels.cuda.chain import OPTIONS
from parse_runtime.kernels.cuda.tiles import Holding, Tiles
from parse_runtime.signature.sizes import PassSizes

REPORT: dict[str, Any] = {"bits": [], "kernels": [], "steps": []}
BEGUN = time.perf_counter()


def note(part: str, row: dict[str, Any]) -> None:
    REPORT[part].append(row)
    REPORT["seconds"] = round(time.perf_counter() - BEGUN, 1)
    print(part, json.dumps(row), flush=True)
    Path(os.environ.get("OUT", "/tmp"), "held.json").write_text(json.dumps(REPORT, indent=1))


def hard(*shape: int) -> Tensor:
    """Magnitudes that differ by far, so that any other alignment of sums shows."""
    x = torch.randn(*shape, device="cuda")
    return (x * torch.exp(2 * torch.randn(*shape, device="cuda"))).bfloat16()


def row_product(x: Tensor, w: Tensor, gated: bool, how: Holding, rows: int, warps: int) -> Tensor:
    """The held product by any tile of rows: of 16, and 64 columns, by wgmma."""
    n = w.shape[0]
    out = held._result(how, n, x.dtype, x.device, gated)
    held._held_row[1, triton.cdiv(n, how.columns), how.spans](
        x, w, None, out, n, w.stride(0), ROWS=rows, COLUMNS=how.columns, DEPTH=128,
        TILES=how.tiles, GATED=gated, GELU=False, num_warps=warps, num_stages=1, **OPTIONS,
    )  # fmt: skip
    return out


SHAPES = (
    (4096, 1024, False, 2), (1024, 2048, False, 4), (1024, 3072, False, 6), (6144, 1024, True, 1),
    (4096, 1024, False, 1), (1024, 2048, False, 2), (1024, 3072, False, 3),
    (1024, 2048, False, 8), (1024, 3072, False, 8), (512, 5120, False, 10), (512, 17408, False, 34),
)  # fmt: skip


def bits() -> None:
    for n, k, gated, spans in SHAPES:
        x, w = hard(64, k), hard(n, k)
        if gated:  # else all gates are shut, or wide open
            w = w * 0.01
        span = k // 128 // spans
        how = Holding(spans, span, 32 if gated or span > 4 else 64)
        chain = Tiles(64, 128, spans, 4)
        for count in (1, 2, 8, 16, 17, 32, 64):
            row: dict[str, Any] = {"n": n, "k": k, "gated": gated, "spans": spans, "rows": count}
            # Tiles of 32 columns are multiplied by mma in place of wgmma.
            apart = replace(chain, apart=True)
            cuts = {"apart": apart, "apart32": replace(apart, columns=32), "chain": chain}
            for label, cut in cuts.items():
                if gated:
                    whole = swiglu.stream_swiglu(x[:count], w, False, cut)[None]
                else:
                    whole = stream.stream_parts(x[:count], w, None, cut)
                for kind, rows, warps, columns in (
                    ("mma", 8, 4, how.columns), ("wgmma", 16, 8 if gated else 4, 64),
                ):  # fmt: skip
                    wide = replace(how, columns=columns)
                    if span * columns * 128 * 2 > warps * 32 * 700:
                        continue
                    found = []
                    for i in sorted({0, count // 2, count - 1}):
                        one = row_product(x[i : i + 1], w, gated, wide, rows, warps)
                        found.append(int((one[:, 0] != whole[:, i]).sum()))
                    row[f"{label} {kind}"] = found
            note("bits", row)


def microseconds(calls: list[Callable[[], Any]]) -> float:
    def run() -> None:
        for call in calls:
            call()

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return round(median_seconds(graph.replay, 9) / len(calls) * 1e6, 2)


def kernels() -> None:
    for name, n, k, gated, spans in (
        ("qkv", 4096, 1024, False, (2, 1)), ("o", 1024, 2048, False, (4, 8, 2)),
        ("gate_up", 6144, 1024, True, (1,)), ("down", 1024, 3072, False, (6, 8, 3)),
    ):  # fmt: skip
        ws = [torch.randn(n, k, device="cuda").bfloat16() for _ in range(28)]
        for count in (1, 2, 8, 16, 32, 64):
            x = torch.randn(count, k, device="cuda").bfloat16()

            def call(tile: Tiles, w: Tensor, x: Tensor = x, gated: bool = gated) -> Any:
                if gated:
                    return swiglu.stream_swiglu(x, w, False, tile)
                return stream.stream_parts(x, w, None, tile)

            base = tiles._streamed(ws[0], x.dtype, count, 1 if gated else 8)
            base = tiles.fitting(base, count, x.dtype)
            found: dict[str, Any] = {"matrix": name, "rows": count, "base": str(base)}
            found["base_us"] = microseconds([lambda w=w: call(base, w) for w in ws])
            for s in spans:
                for columns, stages in ((64, 6), (32, 6), (32, 4)):
                    tile = Tiles(columns, 128, s, stages, apart=True)
                    tile = tiles.fitting(tile, count, x.dtype)
                    label = f"apart c{columns} s{s} stages{stages}"
                    found[label] = microseconds([lambda w=w, t=tile: call(t, w) for w in ws])
                if count == 1:
                    each = k // 128 // s
                    how = Holding(s, each, 32 if gated or each > 4 else 64)
                    found[f"held s{s}"] = microseconds(
                        [lambda w=w, h=how: row_product(x, w, gated, h, 8, 4) for w in ws]
                    )
            note("kernels", found)


def nothing(weight: Any, gated: bool = False) -> None:
    return None


def narrow(weight: Tensor, dtype: torch.dtype, count: int, gated: bool = False) -> Tiles:
    found = tiles.choose(weight, dtype, count, gated)
    return replace(found, columns=32, stages=4) if found.apart else found


def narrow_holding(weight: Any, gated: bool = False) -> Holding | None:
    """Tiles of 32 columns, eight a program: fewer spans, as many programs."""
    values, scale = tiles.split(weight)
    n, k = values.shape
    if gated or scale is not None or k % 128:
        return HOLDING(weight, gated)
    blocks, each = triton.cdiv(n, 32), k // 128
    spans = [s for s in range(1, 9) if each % s == 0 and each // s <= 8 and blocks * s <= 264]
    if not spans:
        return None
    chosen = next((s for s in spans if blocks * s >= 64), spans[-1])
    return Holding(chosen, each // chosen, 32)


HOLDING = tiles.holding
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {"holding": nothing},
    "p64": {"HELD_PROGRAMS": 64},
    "p128": {"HELD_PROGRAMS": 128},
    "c32": {"HELD_PROGRAMS": 64},
    "n32 c64": {"holding": narrow_holding},
    "n32 c32": {"holding": narrow_holding},
}
BATCHES = (1, 2, 8, 16, 64)


def steps(name: str, slots: int, batches: tuple[int, ...]) -> None:
    """Seconds of decode steps from position 320 on, of a slot of 512 tokens."""
    model = CONFIGS[name], random_parameters(CONFIGS[name], "cuda")
    for label, values in VARIANTS.items():
        if slots > 64 and label not in ("base", "p64", "n32 c32"):
            continue
        sizes = PassSizes(max_len=512, slots=slots, prefill=(64,), decode=batches)
        session = CapturedSession("cuda")
        passes = Passes("target", *model, sizes, session.register, run_ahead=True)
        session.add(passes)
        target = GraphTarget(session, passes.signature)
        own = values.get("holding", held.holding)
        with torch.inference_mode(), patch.multiple(tiles, **values):
            cut = narrow if "c32" in label else tiles.choose
            with (
                patch.object(held, "holding", own),
                patch.object(stream, "choose", cut),
                patch.object(swiglu, "choose", cut),
            ):
                for batch in batches:
                    own = list(range(batch))
                    target.decode(Batch(own, own, [320] * batch, [Sampling()] * batch))
                    graph = session.graph("target.decode", batch=batch)
                    took = []
                    for _ in range(5):

                        def launches(graph: Any = graph) -> None:
                            for _ in range(32):
                                graph.launch()

                        took.append(wall_seconds(launches) / 32 * 1e3)
                    note("steps", {
                        "model": name, "slots": slots, "variant": label, "batch": batch,
                        "ms": round(sorted(took)[2], 4), "least": round(min(took), 4),
                    })  # fmt: skip
        del session, passes, target
        torch.cuda.empty_cache()


def main() -> None:
    torch.manual_seed(0)
    REPORT["device"] = torch.cuda.get_device_name()
    for part in (bits, lambda: steps("qwen3-0.6b", 64, BATCHES), kernels,
                 lambda: steps("qwen3-0.6b", 256, (1, 8))):  # fmt: skip
        try:
            with torch.inference_mode():
                part()
        except Exception as error:
            print("FAILED", type(error).__name__, str(error)[:2000], flush=True)
            REPORT.setdefault("failed", []).append(f"{type(error).__name__}: {error}"[:1000])
    Path(os.environ.get("OUT", "/tmp"), "held.json").write_text(json.dumps(REPORT, indent=1))


if __name__ == "__main__":
    main()
