"""The frames of a run by its options: simulated, recorded or received, paced or flat out."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from ctypes import c_int64
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from foundryrt.errors import UsageError
from foundryrt.progress import progress_bar
from otfs_pipeline.frames import opening, shared, source, udp, zeromq
from otfs_pipeline.frames.pace import Paced
from otfs_pipeline.frames.queue import FrameQueue
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.samples import DATATYPES
from otfs_pipeline.frames.slots import slot_memory
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.link import profile
from otfs_pipeline.options import Options
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot

if TYPE_CHECKING:
    from foundryrt.pipeline import Pipeline

# Slots of a waveform that wait in memory from which the device copies directly, at most.
_PINNED = 16


@dataclass
class Feed:
    """Frames, how many at most (0: unknown), and what was lost before the receiver.

    `captures` are those of a recording, for the report. `period` is the time from a frame to the
    next on the air, in seconds; `raw` is the front end, where there is one. `most`: after how many
    frames the receiver ends (0: with the source), where only the graph tells which slots have one.
    """

    name: str
    frames: Iterable[Frame | None]
    total: int
    counts: Counts
    period: float
    queue: FrameQueue | None = None
    paced: Paced | None = None
    captures: list[dict[str, Any]] | None = None
    raw: Raw | None = None
    most: int = 0

    @property
    def word(self) -> c_int64 | None:
        """That of the queue, where its frames go on as they come."""
        return self.queue.word if self.queue and not self.paced else None

    def report(self) -> dict[str, int]:
        """Counts of frames.

        dropped: overruns, arrived but dropped because the receiver was busy; lost and malformed: in
        transport; late_source: ready only after their time, because the source was late itself.
        """
        return {
            "dropped": (self.queue.dropped if self.queue else 0)
            + (self.paced.dropped if self.paced else 0),
            "lost": self.counts.lost,
            "malformed": self.counts.malformed,
            "late_source": self.paced.late if self.paced else 0,
        }

    def close(self) -> None:
        if self.queue:
            self.queue.close()


def frame_period(settings: Settings, options: Options) -> float:
    """Seconds from a frame to the next on the air, which is the deadline."""
    return slot(settings).seconds if options.raw else settings.frame_seconds


def open_feed(
    settings: Settings,
    options: Options,
    stop: threading.Event,
    staging: Callable[[], np.ndarray],
    pipeline: Pipeline | None = None,
) -> Feed:
    """The source of `options`; `staging` gives arrays that the device copies from directly.

    With `pipeline` the front end of --raw is in the graph, which takes slots of the waveform. Their
    samples go to the device as they come.
    """
    counts = Counts()
    period = frame_period(settings, options)
    in_graph = pipeline is not None

    def front(rate: float) -> Raw:
        if pipeline is None:
            return Raw(settings, rate)
        # Those that wait and that are in flight, one in the loop's hand.
        used = min(options.queue, _PINNED) + options.depth + 1
        memory = slot_memory(settings, used, partial(pipeline.memory, ahead=True))
        return Raw(settings, rate, memory, pipeline.upload)

    if not options.iq and not options.external:
        paths = profile.find(options.channel)
        name = f"{paths.name}, {settings.gain_model} gains, {options.snr:g} dB"
        frames: Iterable[Frame | None] = _simulated(settings, options, paths, staging, stop)
        feed = Feed(name, frames, options.frames, counts, period)
    elif options.iq:
        opened = opening.open_recording(
            options.iq, options.metadata, options.datatype, settings, options.raw
        )
        raw = front(options.rate or opened.rate) if options.raw else None
        whole = opened.slots(raw.slot_samples) if raw else opened.count(settings)
        total = min(whole, options.max_frames or whole)
        read = raw.frames(opened.waveform(settings), counts) if raw else opened.frames(settings)
        if not raw or (options.max_frames and not in_graph):
            read = itertools.islice(read, total)
        if options.pace:
            read = _timed(read)
        queue = FrameQueue(read, options.queue, False, stop)
        captures = opened.captures()
        feed = Feed(options.iq, queue, total, counts, period, queue, captures=captures, raw=raw)
    else:
        place = options.zmq or options.shm or options.udp
        sent = _received(settings, options, counts, stop)
        raw = front(options.rate) if options.raw else None
        read = raw.frames(sent, counts) if raw else sent
        queue = FrameQueue(read, options.queue, not options.lossless, stop)
        counted = options.max_frames and not in_graph
        frames = _first(queue, options.max_frames) if counted else queue
        feed = Feed(place, frames, options.max_frames, counts, period, queue, raw=raw)
    if in_graph:
        feed.most = options.max_frames
    if options.pace:
        feed.paced = Paced(feed.frames, period, options.queue)
        feed.frames = feed.paced
    return feed


def _received(
    settings: Settings, options: Options, counts: Counts, stop: threading.Event
) -> Iterator[Frame]:
    idle = options.idle_timeout
    if options.datatype and options.datatype not in DATATYPES:
        raise UsageError(f"--datatype {options.datatype}: use one of {', '.join(DATATYPES)}")
    if options.shm:
        return shared.receive(options.shm, settings, counts, idle, stop)
    if options.udp:
        if settings.antennas > 1:
            raise UsageError(
                f"--udp brings the waveform of one antenna, and the bundle combines "
                f"{settings.antennas}; use --iq, --zmq or --shm"
            )
        datatype = udp.datatype_of(options.packets, options.datatype)
        rate = options.rate or settings.bandwidth * OVERSAMPLING
        return udp.receive(options.udp, options.packets, datatype, rate, counts, idle, stop)
    if options.bare:
        datatype = options.datatype or zeromq.BARE_DATATYPE
        return zeromq.receive_bare(
            options.zmq, options.bare, settings, counts, idle, stop, datatype
        )
    return zeromq.receive(options.zmq, settings, counts, idle, stop)


def _timed(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames that are ready as soon as they are read."""
    for frame in frames:
        yield replace(frame, ready=time.perf_counter())


def _first(frames: Iterable[Frame | None], count: int) -> Iterator[Frame | None]:
    for frame in frames:
        count -= frame is not None
        yield frame
        if not count:
            return


def _simulated(
    settings: Settings,
    options: Options,
    paths: profile.Profile,
    staging: Callable[[], np.ndarray],
    stop: threading.Event,
) -> Iterator[Frame]:
    paths.check(settings)
    size = min(options.pool or source.pool_size(settings, options.frames), options.frames)

    def make(index: int) -> Frame:
        return source.simulate(settings, options.snr, options.seed, index, paths)

    frames = []
    with progress_bar(size, "simulating") as update:
        for item in source.pool(make, size):
            if stop.is_set():
                break
            frames.append(source.placed(item, staging()))
            update(len(frames))
    return source.repeat(frames, options.frames)
