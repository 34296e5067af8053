"""Bit error rates of the receiver over SNR with one, two and four antennas, and what they gain.

Channel and noise are estimated from the pilot, by the float64 receiver with the iterations of the
host target. With one channel for all antennas only the noise differs, so that what is left is the
array gain, 3 dB for each doubling; with a channel for each, diversity comes on top, and the more of
it the lower the bit error rate. The SNR is that of one antenna.

The times are those of the native operators of the host target; the best of many counts, since other
processes only ever add time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from joblib import Parallel, delayed
from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, Report, chosen, say, today
from otfs_pipeline.frames import source
from otfs_pipeline.link import banded, reference, transmit
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.receiver.native import NativeReceiver
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.bootstrap import interval, snr_at
from otfs_pipeline.study.linklevel import unit_noise

ANTENNAS = (1, 2, 4)
SNRS = tuple(float(snr) for snr in range(0, 32, 2))
TARGETS = (1e-2, 1e-3)
SEED = 1
PARTS = ("bit_errors", "times")


def frame_errors(link: Settings, alike: bool, snrs: Sequence[float], index: int) -> list[float]:
    """BER of one frame at each SNR; `alike`: all antennas have the first one's channel."""
    rng = np.random.default_rng([SEED, index])
    taps = [VEHICULAR_A.taps(rng, link) for _ in range(link.antennas)]
    bits = transmit.payload(SEED, index, link)
    channel = banded.antenna_bands(taps[:1] * link.antennas if alike else taps, link.q)
    clean = banded.apply_samples(transmit.transmit(bits, link), channel)
    noise = unit_noise(rng, clean.shape)
    errors = []
    for snr in snrs:
        got = reference.receive(clean + 10 ** (-snr / 20) * noise, link, preconditioned=True)
        errors.append(float(np.mean(got.bits.ravel() != bits)))
    return errors


def curve(link: Settings, alike: bool, frames: int) -> dict[str, Any]:
    """BER over SNR with intervals, and the SNRs at which it is that of TARGETS."""
    calls = (delayed(frame_errors)(link, alike, SNRS, index) for index in range(frames))
    rows = np.array(Parallel(n_jobs=-1)(calls))
    mean = rows.mean(axis=0)
    name = "the same channel" if alike else "independent channels"
    say(f"{link.antennas} antennas, {name}: {', '.join(f'{ber:.2e}' for ber in mean)}")
    found = [snr_at(target, np.array(SNRS), mean) for target in TARGETS]
    return {
        "ber": [{"mean": float(c.mean()), "ci95": interval(c, np.mean)} for c in rows.T],
        "snr_at_db": {
            f"{target:g}": snr if np.isfinite(snr) else None
            for target, snr in zip(TARGETS, found, strict=True)
        },
    }


def gains(curves: dict[str, Any]) -> dict[str, Any]:
    """By antennas and target: the SNR that they need less than one antenna, in dB."""
    one = curves["1"]["snr_at_db"]
    return {
        antennas: {
            target: one[target] - snr if None not in (snr, one[target]) else None
            for target, snr in found["snr_at_db"].items()
        }
        for antennas, found in curves.items()
        if antennas != "1"
    }


def bit_errors(grid: str, frames: int) -> dict[str, Any]:
    """The curves, and what they gain."""
    links = [Settings(grid=grid, gain_model="rayleigh", antennas=each) for each in ANTENNAS]
    found = {
        name: {str(link.antennas): curve(link, alike, frames) for link in links}
        for name, alike in (("same_channel", True), ("independent_channels", False))
    }
    return {
        "grid": grid,
        "channel": VEHICULAR_A.name,
        "gain_model": links[0].gain_model,
        "modulation": links[0].modulation,
        "iterations": links[0].preconditioned_iterations,
        "frames": frames,
        "snr_db": SNRS,
        "array_gain_db": gains(found["same_channel"]),
        "gain_db": gains(found["independent_channels"]),
        **found,
    }


def times(grid: str, rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds of a frame by antennas, which take turns."""
    torch.set_num_threads(threads)
    links = [Settings(grid=grid, antennas=each) for each in ANTENNAS]
    receivers = [NativeReceiver(link) for link in links]
    frames = [torch.from_numpy(source.simulate(link, 15.0, SEED, 0).samples) for link in links]
    taken: list[list[float]] = [[] for _ in links]
    for _ in range(rounds):
        for receive, frame, seconds in zip(receivers, frames, taken, strict=True):
            begun = time.perf_counter()
            receive(frame)
            seconds.append(time.perf_counter() - begun)
    best = [1e3 * min(seconds) for seconds in taken]
    say(f"{grid}, {threads} threads: {', '.join(f'{ms:.3f} ms' for ms in best)}")
    return {
        "grid": grid,
        "threads": threads,
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "deadline_ms": 1e3 * links[0].frame_seconds,
        "best_ms": {str(link.antennas): ms for link, ms in zip(links, best, strict=True)},
    }


def run(
    frames: Annotated[int, Option(min=2, help="Frames of each curve.")] = 200,
    rounds: Annotated[int, Option(min=1, help="Frames of each time.")] = 300,
    threads: Annotated[int, Option(min=1, help="Threads of the times.")] = 2,
    parts: Annotated[str, Option(help="What is measured.")] = ",".join(PARTS),
    output: Output = RESULTS / "otfs_antennas.json",
) -> None:
    """Measure what several antennas gain and take; parts that are not run keep their figures."""
    report = Report(output, {"date": today(), "device": f"{cpu()}, numpy {np.__version__}"})
    names = chosen(parts, PARTS, "--parts")
    if "times" in names:
        report.save("times", times("1024x32", rounds, threads))
    if "bit_errors" in names:
        report.save("bit_errors", bit_errors("64x32", frames))
