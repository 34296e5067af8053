"""Drafting beside prefills, each on a stream of its own: what a device makes of both at once.

A prefill's products take all multiprocessors, so steps of the draft model wait for places among
their blocks. `free` multiprocessors are what cuBLAS is told to leave.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.parse.models import CONFIGS, Model, random_parameters
from benchmarks.report import RESULTS, Output, say, today, write_results
from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.signature.sizes import PassSizes, prompts_of

EVERY = 8
"""Steps between two marks of time."""


@dataclass(frozen=True)
class Both:
    """Prompts that are prefilled, in passes of so many rows, and steps of as many drafts."""

    prompt: int = 256
    rows: int = 2048
    batch: int = 32
    steps: int = 256
    free: tuple[int, ...] = (0, 16, 32)


def drafting_beside_prefill(target: Model, draft: Model, both: Both) -> Iterator[dict[str, Any]]:
    """Seconds of the target's prefills, of the draft model's steps, and of both at once.

    `steps_meanwhile` is how many steps ended while prefills ran.
    """
    priorities = torch.cuda.Stream.priority_range()
    prefills = torch.cuda.Stream(priority=priorities[0])
    sizes = PassSizes(
        max_len=both.prompt + both.steps + 8, slots=both.batch, prefill=(both.rows,),
        prompts=(prompts_of(both.rows, both.batch),), decode=(both.batch,),
    )  # fmt: skip
    models = {}
    for name, model in (("target", target), ("draft", draft)):
        session = EagerSession(device="cuda")
        passes = Passes(name, *model, sizes, session.register, run_ahead=True)
        session.add(passes)
        decoder = GraphDecoder(session, passes.signature)
        for slot in range(both.batch):
            decoder.tables.reserve(slot, sizes.max_len)
        decoder.prefill_all([
            Chunk(slot, list(range(slot, slot + both.prompt)), 0, Sampling())
            for slot in range(both.batch)
        ])  # fmt: skip
        models[name] = decoder, {s.graph: run for s, run in passes.graphs()}
    slots, places = list(range(both.batch)), [both.prompt] * both.batch
    first = Batch(slots, slots, places, [Sampling()] * both.batch)
    decoder, runs = models["draft"]
    decoder.decode(first)
    count = both.batch * both.prompt // both.rows
    for priority in priorities:
        drafts = torch.cuda.Stream(priority=priority)
        step = _captured(runs["draft.decode"], drafts)
        for free in both.free:
            with _leaving(free):
                prefill = _captured(models["target"][1]["target.prefill"], prefills)
            alone = _timed([(prefills, prefill, count)])
            decoder.decode(first)
            drafting = _timed([(drafts, step, both.steps)])
            decoder.decode(first)
            together = _timed([(prefills, prefill, count), (drafts, step, both.steps)])
            ended = together[0][-1]
            yield {
                "free": free, "high_priority": priority < priorities[0],
                "prefill": alone[0][-1], "draft": drafting[0][-1],
                "in_turn": alone[0][-1] + drafting[0][-1],
                "together": max(ended, together[1][-1]), "prefill_beside": ended,
                "steps_meanwhile": EVERY * sum(at < ended for at in together[1]),
            }  # fmt: skip


@contextmanager
def _leaving(free: int) -> Iterator[None]:
    """Products of the present thread leave so many multiprocessors to others."""
    maps = Path("/proc/self/maps").read_text().split()
    library = ctypes.CDLL(next(part for part in maps if "/libcublas.so" in part))
    handle = ctypes.c_void_p(torch.cuda.current_blas_handle())
    every = torch.cuda.get_device_properties(0).multi_processor_count
    library.cublasSetSmCountTarget(handle, every - free if free else 0)
    try:
        yield
    finally:
        library.cublasSetSmCountTarget(handle, 0)


def _captured(run: Callable[[], object], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """A pass with memory of its own."""
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        run()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            run()
    return graph


def _timed(work: list[tuple[torch.cuda.Stream, torch.cuda.CUDAGraph, int]]) -> list[list[float]]:
    """Of each graph, launched so often on its stream, seconds from the begin until every EVERY
    launches, and all, had ended."""
    torch.cuda.synchronize()
    begin = torch.cuda.Event(enable_timing=True)
    begin.record()
    marks: list[list[torch.cuda.Event]] = []
    for stream, graph, count in work:
        marks.append([])
        with torch.cuda.stream(stream):
            stream.wait_event(begin)
            for i in range(1, count + 1):
                graph.replay()
                if i % EVERY == 0 or i == count:
                    marks[-1].append(torch.cuda.Event(enable_timing=True))
                    marks[-1][-1].record(stream)
    torch.cuda.synchronize()
    return [[begin.elapsed_time(mark) * 1e-3 for mark in some] for some in marks]


def run(output: Output = RESULTS / "parse_beside.json") -> None:
    """Measure what a stream of its own for the draft model would gain, at real geometry."""
    both = Both()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "date": today(), "torch": torch.__version__,
        "sizes": vars(both), "rows": [],
    }  # fmt: skip
    names = "qwen3-14b", "qwen3-0.6b"
    target, draft = ((CONFIGS[name], random_parameters(CONFIGS[name], "cuda")) for name in names)
    for row in drafting_beside_prefill(target, draft, both):
        report["rows"].append(row)
        say(str(row))
        write_results(output, report)
