"""A bundle's waveform, from raw samples to decoded payload: bit error rates, and at the air's pace.

    python -m benchmarks.receiver.waveform BUNDLE FRAMES SECONDS POOL BER_FRAMES

Prints one JSON object; in a process without torch. Bit error rates are before the decoder: of
waveforms that come 20 samples late or early and are 2 kHz off, beside those of the frames of
`source.simulate`, with equal payloads and channels; none of 0 frames. Latency is from when the
samples came that complete the next preamble, with which a frame is given on, until decoded payload
and block errors are in host memory; `timeline` says where it went, `machine` how late a process is
that only sleeps. Samples come in pieces of a 32nd of a slot; the first two slots, in
which the front end locks, at once. The air is once complex64 and once the int16 pairs that most
radios give, of half the bytes: `ci16_le`.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np

from benchmarks.receiver import jitter
from benchmarks.receiver.timeline import Timeline
from benchmarks.report import say
from foundryrt.pipeline import Pipeline
from foundryrt.session import Session
from otfs_pipeline.frames import source, stream
from otfs_pipeline.frames.intake import undecoded
from otfs_pipeline.frames.queue import FrameQueue
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.samples import encode
from otfs_pipeline.frames.slots import slot_memory
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.front.signature import WAVEFORM_GRAPH, waveform_signature
from otfs_pipeline.link import frame
from otfs_pipeline.metrics import latency_percentiles
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import GRAPH
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation
from otfs_pipeline.waveform.slot import air_payload_mbps, slot

SNRS = (15.0, 20.0, 25.0)
OFFSETS = ((-20.0, 2000.0), (20.0, -2000.0))
PIECES = 32
# Slots that come at once, before the others at the air's pace.
LOCKING = 2
SEED = 1
QUEUE, DEPTH = 8, 3
# The largest of an integer format's samples over its full scale.
HEADROOM = 0.9


class Wrong:
    """Bit errors before the decoder, and blocks that were not decoded."""

    def __init__(self) -> None:
        self.frames = self.bits = self.wrong = self.block_errors = 0

    def take(self, item: Frame, outputs: Mapping[str, np.ndarray]) -> None:
        if item.coded.size:
            self.frames += 1
            self.bits += item.coded.size
            self.wrong += int(np.count_nonzero(outputs["bits"].reshape(-1) != item.coded))
            self.block_errors += int(np.count_nonzero(outputs["block_errors"]))

    def rate(self) -> float:
        return self.wrong / self.bits


class Chain:
    """The graph with the front end, several slots in flight."""

    def __init__(self, session: Session, outputs: tuple[str, ...]) -> None:
        self.settings = Settings(**session.settings)  # type: ignore[arg-type]
        self._session = session
        inputs = waveform_signature(self.settings).inputs
        self.shape = inputs["waveform"].shape
        graph = session.graph(WAVEFORM_GRAPH)
        self.pipeline: Pipeline = graph.pipeline(
            tuple(inputs), (*outputs, "front"), DEPTH, timed=True
        )
        # Slots that wait, that are in flight, and one between.
        ahead = partial(self.pipeline.memory, ahead=True)
        self.memory = slot_memory(self.settings, QUEUE + DEPTH + 1, ahead)
        # The first launch also touches memory and makes plans.
        zeros = {name: np.zeros(like.shape, like.dtype) for name, like in inputs.items()}
        self.pipeline.submit(0, zeros)
        self.pipeline.wait(0)

    def raw(self, pipeline: Pipeline | None = None) -> Raw:
        """A front end for another radio than the one before."""
        self._session.write("tracked", np.zeros_like(self._session.read("tracked")))
        return Raw(self.settings, 0.0, self.memory, (pipeline or self.pipeline).upload)

    def run(
        self, frames: Iterable[Frame | None], take: Any, pipeline: Pipeline | None = None
    ) -> stream.Tally:
        word = frames.word if isinstance(frames, FrameQueue) else None
        stop, pipeline = threading.Event(), pipeline or self.pipeline
        return stream.receive(frames, pipeline, self.shape, take, stop, word=word)

    def close(self) -> None:
        self.pipeline.close()


def error_rates(session: Session, count: int) -> list[dict[str, Any]]:
    """Of `count` frames at each SNR: of waveforms and of frames."""
    with closing(Chain(session, ("bits", "block_errors", "variance"))) as chain:
        link, half = chain.settings, count // len(OFFSETS)
        waveforms, ideals = ({snr: Wrong() for snr in SNRS} for _ in range(2))
        for index, (delay, carrier) in enumerate(OFFSETS):
            say(f"{link.grid}: waveforms of {half} frames, {delay:g} samples, {carrier:g} Hz")
            given = Impairments(delay=delay + 0.3, carrier_hz=carrier)
            numbers = range(index * half, (index + 1) * half)
            made = Simulation(link, SEED, impairments=given, threads=threads())
            clean = np.concatenate(list(made.pieces(numbers)))
            for snr in SNRS:
                pieces = _pieces(link, _noisy(clean, snr), made.starts(half), numbers)
                chain.run(chain.raw().frames(pieces, Counts()), waveforms[snr].take)
    names = ("bits", "block_errors", "variance")
    with closing(session.graph(GRAPH).pipeline(("samples",), names, DEPTH)) as pipeline:
        for snr in SNRS:
            say(f"{link.grid}: frames at {snr:g} dB")

            def make(index: int, snr: float = snr) -> Frame:
                return source.simulate(link, snr, SEED, index)

            items = source.pool(make, len(OFFSETS) * half)
            shape = link.frame_shape
            stream.receive(items, pipeline, shape, ideals[snr].take, threading.Event())
    return [
        {
            "snr_db": snr,
            "frames": waveforms[snr].frames,
            "frames_ideal": ideals[snr].frames,
            "ber": waveforms[snr].rate(),
            "ber_ideal": ideals[snr].rate(),
            "block_errors": waveforms[snr].block_errors,
            "block_errors_ideal": ideals[snr].block_errors,
        }
        for snr in SNRS
    ]


def waveform(link: Settings, pool: int, snr: float) -> np.ndarray:
    """`pool` slots from a preamble on, complex64, which can be repeated."""
    say(f"{link.grid}: a waveform of {pool} frames, which repeats")
    given = Impairments(snr_db=snr, delay=3.3, carrier_hz=900.0)
    made = Simulation(link, SEED, impairments=given, threads=threads())
    whole = np.concatenate(list(made.pieces(range(pool))))
    first, second = made.starts(2)
    return whole[first:][: pool * (second - first)]


def paced(session: Session, frames: int, samples: np.ndarray, pool: int) -> dict[str, Any]:
    """Latency of `frames` slots at the pace of the air; `samples` as `waveform`, or encoded."""
    with closing(Chain(session, ("payload", "block_errors", "variance"))) as chain:
        link = chain.settings
        period = slot(link).seconds
        say(f"{link.grid}: {frames} frames at the pace of the air")
        timeline = Timeline(chain.pipeline)
        raw, stop = chain.raw(timeline), threading.Event()
        # One that is not complete, since the next preamble never comes.
        count = PIECES * (frames + 1)
        with jitter.beside(period) as machine:
            before = resource.getrusage(resource.RUSAGE_SELF)
            sent = _arriving(samples, period / PIECES, count, pool, timeline.wait_until)
            found = timeline.read(raw.frames(sent, Counts()))
            queue = FrameQueue(found, QUEUE, True, stop)
            with closing(queue):
                tally = chain.run(queue, timeline.take, timeline)
            after = resource.getrusage(resource.RUSAGE_SELF)
        front = raw.report()
    milliseconds, deadline = np.array(tally.milliseconds), period * 1e3
    missed = int(np.count_nonzero(milliseconds > deadline))
    latency = latency_percentiles(milliseconds)
    return {
        "frames": tally.frames,
        "sent": frames,
        "dropped": queue.dropped,
        "damaged": front["damaged"],
        "jumps": front["jumps"],
        "latency_ms": latency,
        "deadline_ms": deadline,
        "p99_9_over_deadline": latency["p99_9"] / deadline,
        "p99_9_over_frame": latency["p99_9"] / (1e3 * link.frame_seconds),
        "deadline_misses": missed,
        "on_time": (tally.frames - missed) / frames,
        "timeline": timeline.report(),
        "machine": machine,
        "preempted": after.ru_nivcsw - before.ru_nivcsw,
        "page_faults": after.ru_minflt - before.ru_minflt,
        "payload_mbps": frame.payload_bits(link) * tally.frames / tally.seconds / 1e6,
    }


def threads() -> int:
    return min(8, os.cpu_count() or 1)


def _noisy(clean: np.ndarray, snr: float) -> np.ndarray:
    rng = np.random.default_rng(int(snr))
    noise = rng.standard_normal((clean.size, 2), np.float32).view(np.complex64)[:, 0]
    return np.asarray(clean + noise * np.float32(np.sqrt(10 ** (-snr / 10) / 2)))


def _pieces(
    link: Settings, samples: np.ndarray, starts: list[int], numbers: Iterable[int]
) -> Iterator[Frame]:
    """The waveform cut where preambles begin, with the payloads of their frames."""
    yield Frame(samples[: max(starts[0], 0)], UNKNOWN)
    for begin, end, number in zip(starts, [*starts[1:], samples.size], numbers, strict=True):
        bits, coded = (of(SEED, number, link) for of in (source.known_payload, source.known_coded))
        yield Frame(samples[max(begin, 0) : end], bits, coded=coded)


def _arriving(
    samples: np.ndarray, seconds: float, count: int, pool: int, wait: Callable[[float], None]
) -> Iterator[Frame]:
    """`count` pieces of a repeated waveform of `pool` slots, each when its last sample comes.

    But for those of the first slots, in which the front end locks. `wait` returns at a time.
    """
    pieces = itertools.cycle(np.array_split(samples, pool * PIECES))
    for piece in itertools.islice(pieces, LOCKING * PIECES):
        yield Frame(piece, UNKNOWN, time.perf_counter())
    due = time.perf_counter()
    for piece in itertools.islice(pieces, count - LOCKING * PIECES):
        due += seconds
        wait(due)
        yield Frame(piece, UNKNOWN, due)


def measure(path: str, frames: int, seconds: float, pool: int, ber_frames: int) -> dict[str, Any]:
    """All that is measured of a bundle; so many `seconds` at the air's pace at most."""
    with Session.open(path) as session:
        link, snr = Settings(**session.settings), 20.0  # type: ignore[arg-type]
        frames = min(frames, int(seconds / slot(link).seconds))
        air = waveform(link, pool, snr)
        # A radio's gain leaves room for the peaks, which are the pilot's.
        scale = HEADROOM / float(np.abs(air.view(np.float32)).max())
        integers = undecoded(encode(air, "ci16_le", scale), "ci16_le")
        return {
            "grid": link.grid,
            "modulation": link.modulation,
            "code_rate": link.code_rate,
            "cg_iterations": link.cg_iterations,
            "air_payload_mbps": air_payload_mbps(link),
            "snr_db": snr,
            **paced(session, frames, air, pool),
            "ci16_le": paced(session, frames, integers, pool),
            "ber": error_rates(session, ber_frames) if ber_frames else None,
        }


if __name__ == "__main__":
    bundle, *numbers = sys.argv[1:]
    number, limit, repeated, compared = numbers
    result = measure(bundle, int(number), float(limit), int(repeated), int(compared))
    if "torch" in sys.modules:
        sys.exit("torch was imported")
    print(json.dumps(result))
