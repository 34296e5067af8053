"""Time of the thread that reads a waveform for the graph with the front end, slot by slot.

Samples are noise with preambles in it: what a slot holds beside its preamble is not looked at.
`polled` is beside a thread that asks for the interpreter all the time.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, Report, say, today
from otfs_pipeline.frames.intake import undecoded
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.recording import Recording, Segment
from otfs_pipeline.frames.samples import encode
from otfs_pipeline.frames.slots import slot_memory
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.detect import Detector
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot

GRIDS = ("16384x32", "4096x32", "1024x32")
DATATYPES = ("cf32_le", "ci16_le")
# Slots of the waveform, which repeats; pieces of a slot; slots that wait, at most.
POOL, PIECES, WAITING = 4, 32, 12
# As in `stream.receive`.
_SWITCH_SECONDS = 5e-5


def run(
    slots: Annotated[int, Option(help="Of each grid and source.")] = 300,
    output: Output = RESULTS / "otfs_reading.json",
) -> None:
    """Measure each grid; results are written after each, what else is in the file is kept."""
    report = Report(output, {"date": today(), "device": cpu()})
    for grid in GRIDS:
        link = Settings(grid=grid)
        samples = waveform(link)
        rows = []
        for datatype, stored in itertools.product(DATATYPES, (False, True)):
            for polled in (False, True):
                rows.append(
                    {"samples": datatype, "recording": stored, "polled": polled}
                    | measured(
                        link, encode(samples, datatype, 0.1), datatype, stored, polled, slots
                    )
                )
                say(f"{grid}: {rows[-1]}")
        report.save(grid, {"slot_ms": slot(link).seconds * 1e3, "reading": rows})


def waveform(link: Settings) -> np.ndarray:
    """POOL slots of noise, and their preambles."""
    rng, step = np.random.default_rng(1), OVERSAMPLING * slot(link).chips
    samples = rng.standard_normal((POOL * step, 2), np.float32).view(np.complex64)[:, 0]
    template = Detector(link).template
    for begin in range(0, samples.size, step):
        samples[begin : begin + template.size] += np.sqrt(2 * link.m) * template
    return samples


def measured(
    link: Settings, data: bytes, datatype: str, stored: bool, polled: bool, count: int
) -> dict[str, float]:
    """Of a slot: the thread's processor time, and median and p99 of the time from one to the next.

    Slots are done with at once.
    """
    memory = slot_memory(link, WAITING, lambda size: np.ones(size, np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "air"
        if stored:
            path.write_bytes(data)
        recording = Recording(path, datatype, (Segment(0, 0, len(data)),))
        pieces = _recorded(recording, link) if stored else _pieces(data, datatype)
        with _polling() if polled else nullcontext():
            found = Raw(link, 0.0, memory).frames(pieces, Counts())
            # Until the front end has locked, and the memory has been used once.
            for _ in itertools.islice(found, 2 * WAITING):
                pass
            busy, ends = time.thread_time(), [time.perf_counter()]
            for _ in itertools.islice(found, count):
                ends.append(time.perf_counter())
            busy = time.thread_time() - busy
    each = np.diff(ends) * 1e3
    return {
        "slots": count,
        "processor_ms": busy * 1e3 / count,
        "p50_ms": float(np.median(each)),
        "p99_ms": float(np.percentile(each, 99)),
    }


def _pieces(data: bytes, datatype: str) -> Iterator[Frame]:
    pieces = np.array_split(undecoded(data, datatype), POOL * PIECES)
    return (Frame(piece, UNKNOWN) for piece in itertools.cycle(pieces))


def _recorded(recording: Recording, link: Settings) -> Iterable[Frame]:
    return itertools.chain.from_iterable(recording.waveform(link) for _ in itertools.count())


@contextmanager
def _polling() -> Iterator[None]:
    stop, interval = threading.Event(), sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)

    def poll() -> None:
        while not stop.is_set():
            time.sleep(0)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
