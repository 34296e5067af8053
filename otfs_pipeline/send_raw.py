"""Sends or writes a simulated waveform: `python -m otfs_pipeline.send --raw`."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundryrt.errors import UsageError
from foundryrt.progress import progress_bar
from otfs_pipeline.arguments import finite, natural, positive
from otfs_pipeline.frames import shared, udp, writing, zeromq
from otfs_pipeline.frames.pace import sleep_until
from otfs_pipeline.frames.samples import DATATYPES, encode, width
from otfs_pipeline.frames.wire import Header
from otfs_pipeline.link import profile
from otfs_pipeline.link.pilot import largest_sample
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.pulse import pulse_reach
from otfs_pipeline.waveform.simulate import Simulation
from otfs_pipeline.waveform.slot import air_payload_mbps, slot

Send = Callable[[np.ndarray, int], None]
"""Sends a slot of samples, which begins with the preamble of frame i of the pool."""


_FLOATS = {
    "delay": "samples by which it comes late; a fraction, too",
    "carrier": "carrier offset in Hz",
    "dc": "DC over the rms",
    "iq_db": "gain of the quadrature branch in dB",
    "iq_degrees": "angle by which that branch is turned",
}
_DEFAULTS = dict.fromkeys(_FLOATS, 0.0) | {
    "oversampling": 2, "packets": "sequence", "gap": 0, "gap_at": 0
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of a waveform: its rate, and what happens to it on the way."""
    parser.add_argument(
        "--raw", action="store_true", help="a waveform as it is on the air, in place of frames"
    )
    add = parser.add_argument_group("of --raw").add_argument
    add("--oversampling", type=positive, help="samples a symbol, 2 to 16")
    add("--packets", choices=udp.PACKETS, help="datagrams of --udp")
    for name, meaning in _FLOATS.items():
        add(f"--{name.replace('_', '-')}", type=finite, help=meaning)
    add("--gap", type=natural, help="samples that are missing, of --output")
    add("--gap-at", type=natural, help="the first of them")
    parser.set_defaults(**_DEFAULTS)


def refuse_options(options: argparse.Namespace) -> None:
    """UsageError for an option that means nothing without --raw."""
    for name, default in _DEFAULTS.items():
        if getattr(options, name) != default:
            raise UsageError(f"--{name.replace('_', '-')} is of a waveform; give --raw, too")


@dataclass(frozen=True)
class Waveform:
    """A simulated waveform in a datatype; `gain` puts its samples into an integer's range."""

    simulation: Simulation
    datatype: str
    gain: float

    @property
    def settings(self) -> Settings:
        return self.simulation.settings

    def encoded(self, samples: np.ndarray) -> bytes:
        """Interleaved samples, also of antennas [S, antennas]."""
        return encode(samples, self.datatype, self.gain)


def send(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Send or write by `options`; frames, seconds, and the rates on the air."""
    waveform = _waveform(options, settings)
    start = time.perf_counter()
    frames = options.frames or 100
    late = 0
    if options.output:
        _write(options.output, waveform, frames)
    else:
        late = _stream(options, waveform, frames)
    place = slot(settings)
    return {
        "frames": frames,
        "seconds": time.perf_counter() - start,
        "late": late,
        "sample_rate": settings.bandwidth * options.oversampling,
        "slot_seconds": place.seconds,
        "air_payload_mbps": air_payload_mbps(settings),
    }


def _waveform(options: argparse.Namespace, settings: Settings) -> Waveform:
    if not 2 <= options.oversampling <= 16:
        raise UsageError(f"--oversampling {options.oversampling}: use 2 to 16 samples a symbol")
    if options.udp and settings.antennas > 1:
        raise UsageError("--udp takes the waveform of one antenna; use --output, --zmq or --shm")
    rate = settings.bandwidth * options.oversampling
    if abs(options.carrier) > rate / 2:
        raise UsageError(
            f"--carrier {options.carrier:g}: {rate:g} samples a second hold offsets up to "
            f"{rate / 2:g} Hz; use a higher --oversampling"
        )
    if options.gap and not options.output:
        raise UsageError("--gap needs --output FILE: a live waveform repeats its pool")
    paths = profile.find(options.channel)
    paths.check(settings)
    given = Impairments(
        options.snr, options.delay, options.carrier, options.dc, options.iq_db,
        options.iq_degrees, options.gap_at, options.gap,
    )  # fmt: skip
    simulation = Simulation(settings, options.seed, paths, given, options.oversampling)
    # A channel of many paths hardly doubles the peaks.
    peak = largest_sample(settings)
    gain = 1.0 if DATATYPES[options.datatype].kind == "f" else 0.5 / peak
    return Waveform(simulation, options.datatype, gain)


def _write(path: str, waveform: Waveform, frames: int) -> None:
    settings, simulation = waveform.settings, waveform.simulation
    rate = settings.bandwidth * simulation.oversampling
    starts = simulation.starts(frames + 1)
    # Frames of which nothing is left have no annotation.
    notes = [
        writing.frame_annotation(max(start, 0), end - max(start, 0), simulation.seed, index)
        for index, (start, end) in enumerate(itertools.pairwise(starts))
        if end > max(start, 0)
    ]
    with progress_bar(frames, "writing") as update:

        def pieces() -> Iterator[bytes]:
            for count, piece in enumerate(simulation.pieces(range(frames))):
                yield waveform.encoded(piece)
                update(min(count, frames))

        writing.write_waveform(path, pieces(), waveform.datatype, rate, settings, notes)


def _stream(options: argparse.Namespace, waveform: Waveform, frames: int) -> int:
    """Send slot by slot, the pool repeated; how many went out late."""
    slots, end = _pool(waveform, min(options.pool, frames))
    seconds = slot(waveform.settings).seconds
    late = 0
    with (
        _sender(options, waveform, slots[0].size) as put,
        progress_bar(frames, "sending") as update,
    ):
        start = time.perf_counter()
        for sent in range(frames):
            if options.pace:
                due = start + (sent + 1) * seconds
                late += time.perf_counter() > due
                sleep_until(due)
            put(slots[sent % len(slots)], sent % len(slots))
            update(sent + 1)
        # The last burst ends, and its preamble's successor shows it whole, after its slot.
        put(slots[frames % len(slots)][:end], -1)
    return late


def _pool(waveform: Waveform, size: int) -> tuple[list[np.ndarray], int]:
    """Slots that can be repeated: each holds the end of the one before, the first of the last.

    And how much of the next slot a last burst still needs.
    """
    simulation, settings = waveform.simulation, waveform.settings
    first, second = simulation.starts(2)
    step, order = second - first, [size - 1, *range(size), 0]
    with progress_bar(len(order), "simulating") as update:
        pieces = []
        for count, piece in enumerate(simulation.pieces(order)):
            pieces.append(piece)
            update(min(count + 1, len(order)))
    stream = np.concatenate(pieces)[max(first, 0) + step :]
    slots = [stream[index * step : (index + 1) * step] for index in range(size)]
    end = simulation.oversampling * (2 * settings.m + 2 * pulse_reach(settings))
    return slots, min(end, step)


@contextmanager
def _sender(options: argparse.Namespace, waveform: Waveform, samples: int) -> Iterator[Send]:
    if options.udp:
        opened = udp.Sender(options.udp, options.packets, waveform.datatype)
        with closing(opened):
            yield lambda piece, _: opened.send(piece, waveform.gain)
        return
    size = samples * width(waveform.datatype)
    link: zeromq.Sender | shared.Sender = (
        zeromq.Sender(options.zmq, options.patience)
        if options.zmq
        else shared.Sender(options.shm, size, options.slots, not options.pace, options.patience)
    )
    sequence = itertools.count()

    def put(piece: np.ndarray, index: int) -> None:
        seed = waveform.simulation.seed if index >= 0 else -1
        header = Header(next(sequence), waveform.datatype, piece.size, seed, max(index, 0))
        # Antenna after antenna.
        link.send(header, waveform.encoded(piece.T))

    with closing(link):
        yield put
        link.finish(next(sequence))
