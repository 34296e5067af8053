"""A decoder layer at few rows: launches that are fused in several ways, against nine launches.

`python -m benchmarks.parse.fuse [--quick]` prints one JSON object; `--quick` leaves out batches. It
needs a GPU. A graph holds 28 layers; times are medians over replays, in microseconds a layer.
`same` says whether a row alone has the bits that it has among the batch, or, of one row, whether
another run gives the same; `far1` and `far28` are distances from today's output after as many
layers.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.parse.before import attend_step as old_attend
from benchmarks.parse.before import norm as old_norm
from benchmarks.parse.before import rotate as old_rotate
from parse_runtime.kernels import normed
from parse_runtime.kernels.attend_step import attend_step_parts
from parse_runtime.kernels.cuda import attend_step, held, norm, rotate, stream, swiglu
from parse_runtime.kernels.cuda.unite import unite
from parse_runtime.kernels.linear import linear_parts
from parse_runtime.kernels.rotate import Rotation

LAYERS = 28


@dataclass(frozen=True)
class Geometry:
    hidden: int
    heads: int
    mlp: int
    weights: int
    """Layers of weights that differ, more than the second-level cache holds."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        q = self.heads * 128
        return [(q + 2048, self.hidden), (self.hidden, q), (2 * self.mlp, self.hidden),
                (self.hidden, self.mlp)]  # fmt: skip


GEOMETRIES = {"0.6B": Geometry(1024, 16, 3072, 28), "14B": Geometry(5120, 40, 17408, 4)}


@dataclass(frozen=True)
class Variant:
    """What is fused; `today` is the nine launches before."""

    today: bool = False
    hold: bool = True
    rotate: bool = True
    unite: bool = True
    norm: bool = True
    queries: int = 0
    """Query rows of an attention tile, unless 0,"""
    span: int = 0
    """and keys of a span."""
    depth: int = 128
    programs: int = 112

    def use(self) -> None:
        """Set the kernels' switches."""
        held.MOST_PROGRAMS = 264 if self.hold else 0
        attend_step.ROTATED_ROWS = int(self.rotate)
        held.UNITED_ROWS = int(self.unite)
        normed.NORMED_ROWS = int(self.norm)
        norm.CHUNK = held.DEPTH = self.depth
        held.MOST_TILES = 512 // self.depth
        held.PROGRAMS = self.programs
        attend_step.choose = self.tiles

    def tiles(self, dtype: torch.dtype, keys: int) -> attend_step.Tiles:
        found = CHOOSE(dtype, keys)
        return replace(found, queries=self.queries or found.queries, span=self.span or found.span)


CHOOSE = attend_step.choose
NOW = Variant()
VARIANTS = {
    "today": Variant(today=True),
    "held": Variant(rotate=False, unite=False, norm=False),
    "held rotate": Variant(unite=False, norm=False),
    "held unite": Variant(rotate=False, norm=False),
    "held norm": Variant(rotate=False, unite=False),
    "all": NOW,
    "all but norm": replace(NOW, norm=False),
    "all but unite": replace(NOW, unite=False),
    "all p64": replace(NOW, programs=64),
    "all d256 p64": replace(NOW, depth=256, programs=64),
    "all q16": replace(NOW, queries=16),
    "all q16 p64": replace(NOW, queries=16, programs=64),
    "all q16 s64": replace(NOW, queries=16, span=64),
    "all q16 s128": replace(NOW, queries=16, span=128),
    "all s64": replace(NOW, span=64),
    "fused, not held": Variant(hold=False),
}


class Layer:
    """Weights, cache and inputs of a geometry, batch and number of keys."""

    def __init__(self, geometry: Geometry, batch: int, keys: int) -> None:
        g = self.geometry = geometry
        self.batch, self.keys = batch, keys
        torch.manual_seed(1)
        self.weights = WEIGHTS.setdefault(
            g, [[normal(n, k, std=k**-0.5) for n, k in g.sizes] for _ in range(g.weights)]
        )
        self.norm, self.head_norm = normal(g.hidden), normal(128)
        self.caches = [normal(2, 8, batch, 2048, 128) for _ in range(2 if batch > 8 else 4)]
        self.frequencies = 10000 ** -(torch.arange(64, device="cuda") / 64)
        self.x = normal(batch, g.hidden)
        row = torch.arange(batch, device="cuda")
        self.rows = {
            "slots": row, "cuts": keys - 2 - row % 3, "one": torch.ones_like(row),
        }  # fmt: skip
        # Kernels may read weights before those ahead of them have ended.
        torch.cuda.synchronize()

    def run(self, v: Variant, only: int | None = None, layers: int = LAYERS) -> Tensor:
        """The last product of all rows, or of one."""
        pick = slice(None) if only is None else slice(only, only + 1)
        slots, cuts = self.rows["slots"][pick], self.rows["cuts"][pick]
        one, places = self.rows["one"][pick], cuts + slots * 2048
        added, hidden = self.x[pick], None
        numbers = slots, cuts, cuts, one, self.keys, 1
        eps, heads = 1e-6, (self.head_norm, self.head_norm)
        for i in range(layers):
            qkv_w, o_w, gate_w, down_w = self.weights[i % len(self.weights)]
            cache = self.caches[i % len(self.caches)]
            if v.today:
                y, hidden = old_norm.add_rms_norm(added, hidden, self.norm, eps)
                qkv = stream.stream_parts(y, qkv_w)
                q = old_rotate.rotate_store(qkv, cuts, self.frequencies, cache, places, heads, eps)
                a = old_attend.launch(q, cache, *numbers)
                o = stream.stream_parts(a, o_w)
                y, hidden = old_norm.add_rms_norm(o, hidden, self.norm, eps)
                added = stream.stream_parts(swiglu.stream_swiglu(y, gate_w), down_w)
                continue
            qkv, hidden = normed.normed_parts(
                added, hidden, self.norm, eps, 0.0, None, qkv_w
            )  # fmt: skip
            how = Rotation(cuts, self.frequencies, places, heads, eps, 0.0)
            o = attend_step_parts(qkv, how, cache, *numbers, o_w)
            y, hidden = normed.normed_swiglu(o, hidden, self.norm, eps, 0.0, None, gate_w)
            added = linear_parts(y, down_w)
        return added


WEIGHTS: dict[Geometry, Any] = {}


def normal(*shape: int, std: float = 1.0) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, std)


def microseconds(call: Callable[[], Any], replays: int = 11) -> float:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(replays + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times[3:])


def layers(name: str, batch: int, keys: int) -> dict[str, Any]:
    layer = Layer(GEOMETRIES[name], batch, keys)
    today = VARIANTS["today"]
    expected = {depth: layer.run(today, layers=depth).float().sum(0) for depth in (1, LAYERS)}
    found: dict[str, Any] = {"model": name, "batch": batch, "keys": keys}
    for label, v in of(name, batch, keys).items():
        v.use()
        try:
            out = layer.run(v)
            entry: dict[str, Any] = {
                "us": round(microseconds(lambda v=v: layer.run(v)) / LAYERS, 2)
            }
            for depth, then in expected.items():
                total = layer.run(v, layers=depth).float().sum(0)
                entry[f"far{depth}"] = round(float((total - then).norm() / then.norm()), 5)
            if batch > 1:
                rows = [layer.run(v, i) for i in (0, batch - 1)]
                entry["same"] = torch.equal(torch.cat(rows, 1), out[:, [0, batch - 1]])
            else:
                entry["same"] = torch.equal(layer.run(v), out)
        except Exception as error:
            entry = {"error": f"{type(error).__name__}: {error}"[:300]}
        found[label] = entry
    return found


def of(name: str, batch: int, keys: int) -> dict[str, Variant]:
    """The variants that say something there."""
    if name == "14B":
        names = ["today", "all", "all q16", "all q16 s128"]
    elif batch == 1:
        names = list(VARIANTS)
    else:
        names = ["today", "held", "all", "all p64", "all q16", "all q16 s64"]
    if keys > 512:
        names = [n for n in names if "s64" not in n]  # more than FEW spans
    return {n: VARIANTS[n] for n in names}


def kernels() -> dict[str, Any]:
    """Each kernel of 0.6B at one row alone, 28 in turn over other weights, microseconds each."""
    NOW.use()
    layer = Layer(GEOMETRIES["0.6B"], 1, 512)
    cuts, slots, one = layer.rows["cuts"], layer.rows["slots"], layer.rows["one"]
    numbers = slots, cuts, cuts, one, 512, 1
    heads, cache = (layer.head_norm, layer.head_norm), layer.caches
    y, act, a = normal(1, 1024), normal(1, 3072), normal(1, 2048)
    parts, qkv = torch.randn(8, 1, 1024, device="cuda"), torch.randn(2, 1, 4096, device="cuda")
    q = normal(1, 16, 128)
    turn = Rotation(cuts, layer.frequencies, cuts, heads, 1e-6, 0.0)
    spans = attend_step.partial(q, cache[0], *numbers)
    tiles = attend_step.choose(torch.bfloat16, 512)
    q16 = replace(tiles, queries=16)
    s64 = replace(q16, span=64)
    ws = layer.weights
    calls: dict[str, Callable[[int], Any]] = {
        "add_rms_norm today": lambda i: old_norm.add_rms_norm(parts, y, layer.norm, 1e-6),
        "add_rms_norm": lambda i: norm.add_rms_norm(parts, y, layer.norm, 1e-6),
        "qkv today": lambda i: stream.stream_parts(y, ws[i][0]),
        "qkv held": lambda i: held.held_product(y, ws[i][0], None),
        "qkv held d256": lambda i: held.held_product(y, ws[i][0], None),
        "qkv normed d256": lambda i: held.normed_product(
            parts, y, layer.norm, 1e-6, 0.0, ws[i][0], None
        ),
        "qkv normed": lambda i: held.normed_product(
            parts, y, layer.norm, 1e-6, 0.0, ws[i][0], None
        ),
        "rotate today": lambda i: old_rotate.rotate_store(
            qkv, cuts, layer.frequencies, cache[i % 4], cuts, heads, 1e-6
        ),
        "rotate": lambda i: rotate.rotate_store(
            qkv, cuts, layer.frequencies, cache[i % 4], cuts, heads, 1e-6
        ),
        "attend today (two launches)": lambda i: old_attend.launch(q, cache[i % 4], *numbers),
        "partial": lambda i: attend_step.partial(q, cache[i % 4], *numbers),
        "partial q16": lambda i: attend_step.partial(q, cache[i % 4], *numbers, q16),
        "partial q16 s64": lambda i: attend_step.partial(q, cache[i % 4], *numbers, s64),
        "rotate partial": lambda i: attend_step.partial(qkv, cache[i % 4], *numbers, rotation=turn),
        "rotate partial q16": lambda i: attend_step.partial(
            qkv, cache[i % 4], *numbers, q16, rotation=turn
        ),
        "unite": lambda i: unite(spans),
        "o today": lambda i: stream.stream_parts(a, ws[i][1]),
        "o held": lambda i: held.held_product(a, ws[i][1], None),
        "o united p64": lambda i: held.united_product(spans, ws[i][1]),
        "down held p64": lambda i: held.held_product(act, ws[i][3], None),
        "o united": lambda i: held.united_product(spans, ws[i][1]),
        "gate_up today": lambda i: swiglu.stream_swiglu(y, ws[i][2]),
        "gate_up held": lambda i: held.held_product(y, ws[i][2], None, True),
        "gate_up normed": lambda i: held.normed_product(
            parts, y, layer.norm, 1e-6, 0.0, ws[i][2], None, True
        ),
        "down today": lambda i: stream.stream_parts(act, ws[i][3]),
        "down held": lambda i: held.held_product(act, ws[i][3], None),
    }
    found: dict[str, Any] = {}
    for name, call in calls.items():
        VARIANTS["all d256 p64" if "d256" in name else "all p64" if "p64" in name else "all"].use()
        try:
            found[name] = round(microseconds(lambda c=call: [c(i) for i in range(28)]) / 28, 2)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:300]
    return found


CASES = [
    (name, batch, keys)
    for name in GEOMETRIES
    for batch in ((1,) if "--quick" in sys.argv else (1, 8, 64))
    for keys in (512, 2048)
]
PARTS = 4
"""Processes that compile a case of one row, which has most variants."""


def compile_all() -> None:
    """Every case once, in processes of their own, so that Triton's cache has all kernels."""
    arguments = [sys.executable, "-m", "benchmarks.parse.fuse", "--compile"]
    work = [json.dumps(None)]
    work += [
        json.dumps([*case, part]) for case in CASES for part in range(PARTS if case[1] == 1 else 1)
    ]
    running = [subprocess.Popen([*arguments, one], stdout=subprocess.DEVNULL) for one in work]
    for process in running:
        process.wait()


def compile_case(case: list[Any] | None) -> None:
    if case is None:
        kernels()
        return
    name, batch, keys, part = case
    GEOMETRIES[name] = replace(GEOMETRIES[name], weights=1)
    layer = Layer(GEOMETRIES[name], batch, keys)
    for v in list(of(name, batch, keys).values())[part :: PARTS if batch == 1 else 1]:
        v.use()
        try:
            layer.run(v, None, 2)
            layer.run(v, 0, 2)
        except Exception as error:
            print(name, batch, keys, v, error, file=sys.stderr)


def main() -> None:
    begun = time.perf_counter()
    if "--compile" in sys.argv:
        compile_case(json.loads(sys.argv[-1]))
        return
    if (os.cpu_count() or 1) >= 8:
        compile_all()
    compiled = time.perf_counter() - begun
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "compile_s": round(compiled, 1),
        "kernels": kernels(),
    }
    report["layers"] = []
    for case in CASES:
        report["layers"].append(layers(*case))
        print(json.dumps(report["layers"][-1]), file=sys.stderr, flush=True)
    report["seconds"] = round(time.perf_counter() - begun, 1)
    print(json.dumps(report))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
