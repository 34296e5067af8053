"""Held and streamed products: the same bits or not, and what either costs. Writes $OUT/held.json.

To be removed once its figures are in parse_held.json.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.parse.measure import CapturedSession, wall_seconds
from benchmarks.parse.models import CONFIGS, random_parameters
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.kernels.cuda import held, tiles
from parse_runtime.kernels.cuda.tiles import Holding, Tiles
from parse_runtime.signature.sizes import PassSizes

REPORT: dict[str, Any] = {"steps": []}
BEGUN = time.perf_counter()


def note(part: str, row: dict[str, Any]) -> None:
    REPORT[part].append(row)
    REPORT["seconds"] = round(time.perf_counter() - BEGUN, 1)
    print(part, json.dumps(row), flush=True)
    Path(os.environ.get("OUT", "/tmp"), "held.json").write_text(json.dumps(REPORT, indent=1))


def nothing(weight: Any, gated: bool = False) -> None:
    return None


def narrow(weight: Tensor, dtype: torch.dtype, count: int, gated: bool = False) -> Tiles:
    found = tiles.choose(weight, dtype, count, gated)
    return replace(found, columns=32, stages=4) if found.apart else found


HOLDING = tiles.holding


def wide(*joins: int) -> Any:
    """Four tiles of 64 columns a program, so many spans joined of o and of down."""

    def of(weight: Any, gated: bool = False) -> Holding | None:
        found = HOLDING(weight, gated)
        if found is None or gated:
            return found
        k = tiles.split(weight)[0].shape[1]
        join = {1024: 1, 2048: joins[0], 3072: joins[1]}[k]
        spans = found.spans * found.joined // join
        return Holding(spans, k // 128 // spans, 64, join)

    return of


def apart_only(join: dict[int, int]) -> Any:
    """Tiles of 32 columns, so many spans joined by K."""

    def of(weight: Any, gated: bool = False) -> Holding | None:
        found = HOLDING(weight, gated)
        if found is None or gated:
            return found
        k = tiles.split(weight)[0].shape[1]
        spans = found.spans * found.joined // join[k]
        return Holding(spans, k // 128 // spans, 32, join[k])

    return of


VARIANTS: dict[str, dict[str, Any]] = {
    "base": {"holding": nothing},
    "joined": {"holding": HOLDING},
    "wide 1 1": {"holding": wide(1, 1)},
    "wide 2 1": {"holding": wide(2, 1)},
    "qkv wide": {
        "holding": lambda w, gated=False: (
            wide(2, 1)(w, gated) if tiles.split(w)[0].shape[0] == 4096 else HOLDING(w, gated)
        )
    },
    "o 2": {"holding": apart_only({1024: 2, 2048: 2, 3072: 2})},
}
BATCHES = (1, 2, 8, 16, 64)


def steps(name: str, slots: int, batches: tuple[int, ...]) -> None:
    """Seconds of decode steps from position 320 on, of a slot of 512 tokens."""
    model = CONFIGS[name], random_parameters(CONFIGS[name], "cuda")
    for label, values in VARIANTS.items():
        if label not in ("base", "joined"):
            batches = (1,)
        if slots > 64 and label not in ("base", "joined"):
            continue
        sizes = PassSizes(max_len=512, slots=slots, prefill=(64,), decode=batches)
        session = CapturedSession("cuda")
        passes = Passes("target", *model, sizes, session.register, run_ahead=True)
        session.add(passes)
        target = GraphTarget(session, passes.signature)
        own = values.get("holding", held.holding)
        with torch.inference_mode(), patch.multiple(tiles, **values):
            with patch.object(held, "holding", own):
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
    for part in (lambda: steps("qwen3-0.6b", 64, BATCHES), lambda: steps("qwen3-0.6b", 256, (1, 8))):  # fmt: skip
        try:
            with torch.inference_mode():
                part()
        except Exception as error:
            print("FAILED", type(error).__name__, str(error)[:2000], flush=True)
            REPORT.setdefault("failed", []).append(f"{type(error).__name__}: {error}"[:1000])
    Path(os.environ.get("OUT", "/tmp"), "held.json").write_text(json.dumps(REPORT, indent=1))


if __name__ == "__main__":
    main()
