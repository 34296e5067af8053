"""Experiment: what passes of prompts and steps cost on real rows, and schedules of them by load."""

from __future__ import annotations

import collections
import itertools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.parse import measure, mixed
from benchmarks.parse.measure import CapturedGraph, CapturedSession
from benchmarks.parse.models import CONFIGS, random_parameters
from parse_runtime.capture import passes as passes_module
from parse_runtime.capture.passes import Passes
from parse_runtime.engine import planned
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.sizes import PassSizes, beside, mixed_sizes, prompts_of

TINY = "--tiny" in sys.argv
SLOTS, PROMPT, ANSWER = (4, 64, 8) if TINY else (256, 256, 128)
PREFILL = (
    (64, 96, 128)
    if TINY
    else (128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048, 3072, 4096)
)
DECODE = (1, 2, 4) if TINY else (1, 16, 32, 64, 72, 80, 96, 128, 160, 192, 256)
BEFORE = (64, 128) if TINY else (256, 384, 512, 1024, 2048)
NOW = (64, 96, 128) if TINY else (128, 256, 384, 512, 768, 1024, 2048)
COARSE = (2, 4) if TINY else (64, 96, 128, 256)
FINE = (1, 2, 4) if TINY else (16, 32, 64, 96, 128, 192, 256)
found: dict[str, Any] = {"passes": [], "loads": []}


def keep(part: str, /, **row: Any) -> None:
    found[part].append(row)
    print(json.dumps(row), flush=True)
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        Path(sys.argv[1]).write_text(json.dumps(found))


def steady(launch: Any, seconds: float = 0.2) -> float:
    """Milliseconds of launches one after the other, once the clock has settled."""
    if not torch.cuda.is_available():
        launch()
        return 0.0
    events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
    events[0].record()
    launch()
    events[1].record()
    torch.cuda.synchronize()
    count = max(4, int(seconds * 1e3 / max(events[0].elapsed_time(events[1]), 1)))
    count = min(count, 40)
    for _ in range(count // 2):
        launch()
    events[1].record()
    for _ in range(count):
        launch()
    events[2].record()
    torch.cuda.synchronize()
    return events[1].elapsed_time(events[2]) / count


times: dict[int, list[Any]] = collections.defaultdict(list)
plain = CapturedGraph.launch


def timed(self: CapturedGraph) -> None:
    """A launch between events."""
    if self._graph is None or not recording:
        return plain(self)
    a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    a.record()
    plain(self)
    b.record()
    times[id(self)].append((a, b))


recording = False


def whole_rows(session: Any, target: Any, config: Any, parameters: Any, chunks_of: Any) -> None:
    """Passes whose last layer computes all rows, by turns with those that do not."""
    lengths = (64, 128) if TINY else (512, 2048)
    slots = 4 if TINY else 64
    sizes = PassSizes(
        max_len=PROMPT + ANSWER, slots=slots, prefill=lengths,
        prompts=tuple(prompts_of(rows, slots) for rows in lengths), decode=(1,),
    )  # fmt: skip
    other = CapturedSession("cuda" if torch.cuda.is_available() else "cpu")
    passes = Passes("target", config, parameters, sizes, other.register, run_ahead=True)
    other.add(passes)
    decoder = GraphTarget(other, passes.signature)
    forward = passes_module.forward

    def all_rows(*args: Any) -> Any:
        x, tapped = forward(*args[:-1], None)
        return (args[-1].of(x) if args[-1] else x), tapped

    for size in decoder.prefills:
        chunks = chunks_of(*size)
        few = [replace(chunk, slot=i) for i, chunk in enumerate(chunks)]
        passes_module.forward = all_rows
        every = decoder.begin_prefill(few)()
        passes_module.forward = forward
        same = target.begin_prefill(chunks)() == every
        for turn in range(3):
            for name, at in (("all", other), ("wanted", session)):
                prompts = next(s.prompts for s in target.prefills if s.rows == size.rows)
                key = {"len": size.rows, "prompts": prompts if at is session else size.prompts}
                ms = steady(at.graph("target.prefill", **key).launch)
                keep(
                    "passes",
                    kind="last layer",
                    rows=size.rows,
                    of=name,
                    turn=turn,
                    ms=ms,
                    same=same,
                )


def main() -> None:
    global recording
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = CONFIGS["tiny" if TINY else "qwen3-14b"]
    parameters = random_parameters(config, device, 1.0)
    CapturedGraph.launch = timed
    mix = mixed_sizes(NOW, FINE, SLOTS) + mixed_sizes(PREFILL, COARSE[::3] or COARSE, SLOTS)
    few = [s for s in mix if s.batch > 32 or s.rows + s.batch < 400 or TINY]
    sizes = PassSizes(
        max_len=PROMPT + ANSWER, slots=SLOTS, prefill=PREFILL,
        prompts=tuple(prompts_of(rows, SLOTS) for rows in PREFILL), decode=DECODE,
        mixed=tuple(sorted(set(few), key=lambda s: (s.batch, s.rows))),
    )  # fmt: skip
    session = CapturedSession(device)
    passes = Passes("target", config, parameters, sizes, session.register, run_ahead=True)
    session.add(passes)
    draw = np.random.default_rng(1)
    here = PROMPT + ANSWER // 2

    def tokens(count: int) -> list[int]:
        return draw.integers(0, config.vocab, count).tolist()

    with torch.inference_mode():
        target = GraphTarget(session, passes.signature)
        target.prefill_all([Chunk(s, tokens(here), 0, Sampling()) for s in range(SLOTS)])

        def chunks_of(rows: int, most: int) -> list[Chunk]:
            each = [min(PROMPT, rows - at) for at in range(0, rows, PROMPT)][:most]
            return [Chunk(SLOTS - 1 - i, tokens(n), 0, Sampling()) for i, n in enumerate(each)]

        def batch(count: int) -> Batch:
            return Batch(list(range(count)), tokens(count), [here] * count, [Sampling()] * count)

        for size in target.prefills:
            target.begin_prefill(chunks_of(*size))()
            ms = steady(session.graph("target.prefill", len=size.rows, prompts=size.prompts).launch)
            keep("passes", kind="prefill", rows=size.rows, ms=ms)
        for count in DECODE:
            target.decode(batch(count))
            ms = steady(session.graph("target.decode", batch=count).launch, 0.15)
            keep("passes", kind="decode", batch=count, ms=ms)
        for size in target.mixed:
            target.begin_mixed(chunks_of(size.rows, size.prompts), batch(size.batch))()
            ms = steady(
                session.graph(
                    "target.mixed", batch=size.batch, len=size.rows, prompts=size.prompts
                ).launch
            )
            keep("passes", kind="mixed", batch=size.batch, rows=size.rows, ms=ms)
        whole_rows(session, target, config, parameters, chunks_of)
        kept = planned._beside

        def capped(flat: int, times_: int, within: int = 32) -> Any:
            def choose(target: Any, resuming: int, prompts: Any) -> Any:
                one = beside(target.mixed, resuming) if resuming else []
                most = max(
                    flat,
                    times_ * (resuming + len(prompts)),
                    sum(prompts) // within if within else 0,
                )
                one = [s for s in one if s.rows + s.batch <= most] or one[:1]
                return [s.prompt_rows for s in one]

            return choose

        load = mixed.TINY if TINY else mixed.Load()
        load = replace(load, prompt=PROMPT, answer=ANSWER)
        before = (BEFORE, COARSE, capped(1 << 30, 1, 0))
        runs = [
            ("before", before, (64, 256)), ("3N", (NOW, COARSE, capped(256, 3)), (64, 256)),
            ("3N fine", (NOW, FINE, capped(256, 3)), (64, 256)),
            ("before", before, (256, 512)), ("3N fine", (NOW, FINE, capped(256, 3)), (256, 512)),
            ("4N", (NOW, COARSE, capped(256, 4)), (256, 512)),
            ("3N fine", (NOW, FINE, capped(256, 3)), (16, 64)),
            ("3N fine", (NOW, FINE, capped(256, 3)), None),
        ]  # fmt: skip
        if TINY:
            runs = [(n, h, (3, 9) if c else None) for n, h, c in runs]
        names = {
            id(session.graph(name, **key)): (name, *key.values()) for name, key in session.graphs
        } if device == "cuda" else {}  # fmt: skip
        for name, (prefill, beside_, choose), count in runs:
            planned._beside = choose
            wanted = [m for m in mixed_sizes(prefill, beside_, SLOTS) if m in sizes.mixed]
            some = replace(
                sizes, prefill=prefill, prompts=tuple(prompts_of(r, SLOTS) for r in prefill),
                mixed=tuple(wanted),
            )  # fmt: skip
            own = GraphTarget(session, replace(passes.signature, sizes=some))
            times.clear()
            recording = device == "cuda"
            begun = time.perf_counter()
            scheduler = Scheduler(own, own)
            heard = (
                mixed._at_a_time(scheduler, load, *count) if count
                else mixed._arriving(scheduler, load)
            )  # fmt: skip
            seconds = time.perf_counter() - begun
            recording = False
            if device == "cuda":
                torch.cuda.synchronize()
            by = {
                str(names[one]): [len(pairs), round(sum(a.elapsed_time(b) for a, b in pairs), 1)]
                for one, pairs in times.items()
            }
            busy = sum(ms for _, ms in by.values()) / 1e3
            keep(
                "loads", name=name, count=count, busy=busy, by=by,
                **mixed._found(heard, load, seconds),
            )  # fmt: skip
        planned._beside = kept
    _ = itertools, measure


if __name__ == "__main__":
    main()
