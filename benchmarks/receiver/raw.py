"""The front end on simulated waveforms: SNR that it loses, frames that a gap costs, time a frame.

The ideal input is what `source.simulate` makes: frames already matched-filtered, in time, without
offset. Both receive the same payloads through the same channels, with the numpy receiver. The loss
is the SNR of the waveform less the SNR at which the ideal input has the same bit error rate. Beside
it stands the waveform without offsets, filtered where its preambles are known to begin.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import soxr
from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results
from otfs_pipeline.frames import source
from otfs_pipeline.front.matched import MatchedFilter
from otfs_pipeline.front.synchronize import FrontEnd
from otfs_pipeline.link import reference, transmit
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.bootstrap import snr_at
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation
from otfs_pipeline.waveform.slot import air_payload_mbps, slot

GRIDS = ("64x32", "256x32")
TRACKED = ("64x32", "256x32", "1024x32", "4096x32", "16384x32")
SNRS = (15.0, 20.0, 25.0)
IDEAL_SNRS = (12.0, 14.0, 15.0, 16.0, 18.0, 20.0, 22.0, 24.0, 25.0, 26.0, 28.0)
DELAYS, CARRIERS = (-20.0, 20.0), (-2000.0, 2000.0)
GAPS = (500, 1000)
SEED = 1
PULSES: tuple[dict[str, Any], ...] = (
    {},
    {"rolloff": 0.1, "doppler_rolloff": 0.2},
    # Longer tails in delay: a wider guard, and more taps.
    {"rolloff": 0.1, "doppler_rolloff": 0.2, "guard": 101, "doppler_reach": 8, "max_taps": 900},
    {"pulse": "sinc"},
    {"waveform": "cp"},
    {"waveform": "cp", "pulse": "sinc"},
    {"waveform": "cp", "pulse": "sinc", "guard": 129},
)
# A frame with more wrong bits than this is lost; intact ones have some 1e-3 at the SNR of the gaps.
LOST = 0.05


def run(
    frames: Annotated[int, Option(help="Frames at each SNR and offset, at 64 delay bins.")] = 200,
    positions: Annotated[int, Option(help="Places of each gap.")] = 60,
    output: Output = RESULTS / "otfs_link.json",
) -> None:
    """Measure the front end; what else is in the results file is kept."""
    links = [Settings(grid=grid) for grid in GRIDS]
    losses = [loss(link, frames * 64 // link.m) for link in links]
    gaps = [lost_after_gap(links[0], gap, positions) for gap in GAPS]
    result = json.loads(output.read_text()) if output.exists() else {}
    device = f"{cpu()}, numpy {np.__version__}"
    result |= {
        "date": today(),
        "device": device,
        "raw_loss_db": max(one["loss_db"] for one in losses),
        "frames_lost_after_gap": max(one["worst"] for one in gaps),
        "raw": losses,
        "gaps": gaps,
        "impairments": impairments(links[-1], max(frames // 4, 1)),
        "pulses": [pulses(more, max(frames // 8, 1)) for more in PULSES],
        "front_end_ms": [tracking(Settings(grid=grid)) for grid in TRACKED],
    }
    write_results(output, result)


def loss(link: Settings, frames: int) -> dict[str, Any]:
    """BER of the ideal input and of waveforms with each pair of offsets, and the SNR lost."""
    ideal = []
    for snr in IDEAL_SNRS:
        ideal.append(np.mean([_ideal(link, snr, index) for index in range(frames)]))
        say(f"{link.grid}: ideal input, {snr:g} dB: {ideal[-1]:.3e}")
    offsets = list(itertools.product(DELAYS, CARRIERS))
    rows = []
    for snr in SNRS:
        rates = [
            waveform(link, Impairments(snr, delay, carrier), range(frames))
            for delay, carrier in offsets
        ]
        mean = float(np.mean([np.mean(one) for one in rates]))
        known = float(np.mean(_known(link, snr, frames)))
        lost = snr - snr_at(mean, np.array(IDEAL_SNRS), np.array(ideal))
        say(f"{link.grid}: waveform, {snr:g} dB: {mean:.3e}, lost {lost:.3f} dB")
        rows.append(
            {
                "snr_db": snr,
                "ber": mean,
                "ber_ideal": float(ideal[IDEAL_SNRS.index(snr)]),
                "ber_known_timing": known,
                "ber_by_offset": [float(np.mean(one)) for one in rates],
                "loss_db": lost,
            }
        )
    return {
        "grid": link.grid,
        "modulation": link.modulation,
        "frames": frames,
        "offsets": [{"delay_samples": delay, "carrier_hz": hz} for delay, hz in offsets],
        "loss_db": max(row["loss_db"] for row in rows),
        "points": rows,
        "ideal": {"snr_db": list(IDEAL_SNRS), "ber": [float(ber) for ber in ideal]},
    }


def waveform(
    link: Settings, given: Impairments, frames: Sequence[int], clock: float = 0.0
) -> list[float]:
    """BER of each frame of a waveform, 0.5 for those that the front end did not give.

    The receiver's clock is by this share too fast.
    """
    made = Simulation(link, SEED, impairments=given)
    front = FrontEnd(link)
    rates = dict.fromkeys(frames, 0.5)
    starts = np.array(made.starts(len(frames))) * (1 + clock)
    pieces = made.pieces(frames)
    if clock:
        stream = np.concatenate(list(pieces)).view(np.float32).reshape(-1, 2)
        faster = soxr.resample(stream, 1.0, 1.0 + clock, quality="VHQ")
        pieces = iter([faster.view(np.complex64).reshape(-1)])
    found = itertools.chain(
        itertools.chain.from_iterable(front.push(piece) for piece in pieces), front.finish()
    )
    for one in found:
        near = int(np.argmin(np.abs(starts - one.start)))
        if abs(starts[near] - one.start) < link.m:
            rates[frames[near]] = _wrong(link, one.samples, frames[near])
    return list(rates.values())


def lost_after_gap(link: Settings, gap: int, positions: int) -> dict[str, Any]:
    """Frames lost by a gap of so many samples, at two a symbol, anywhere in a slot."""
    step = 2 * slot(link).chips
    counts = []
    for position in range(positions):
        at = 2 * step + position * step // positions
        rates = waveform(link, Impairments(25.0, gap_at=at, gap=gap), range(6))
        counts.append(int(np.sum(np.array(rates) > LOST)))
    say(f"{link.grid}: gap of {gap} samples: {np.mean(counts):.2f} frames lost, {max(counts)} most")
    return {
        "grid": link.grid,
        "samples": gap,
        "positions": positions,
        "snr_db": 25.0,
        "mean": float(np.mean(counts)),
        "worst": max(counts),
    }


def impairments(link: Settings, frames: int) -> dict[str, Any]:
    """BER at 25 dB with one impairment at a time."""
    cases = {
        "none": Impairments(25.0),
        "carrier 5 kHz": Impairments(25.0, carrier_hz=5000.0),
        "timing by half a sample": Impairments(25.0, delay=0.5),
        "DC 0.1 rms": Impairments(25.0, dc=0.1),
        "IQ 1 dB, 5 degrees": Impairments(25.0, iq_db=1.0, iq_degrees=5.0),
    }
    rates = {
        name: float(np.mean(waveform(link, given, range(frames)))) for name, given in cases.items()
    }
    rates["clock 20 ppm"] = float(np.mean(waveform(link, cases["none"], range(frames), 20e-6)))
    say(f"{link.grid}: {rates}")
    return {"grid": link.grid, "frames": frames, "snr_db": 25.0, "ber": rates}


def pulses(more: dict[str, Any], frames: int) -> dict[str, Any]:
    """BER at 25 dB of a link with other pulses, and its slot over a frame's duration."""
    link = Settings(grid="256x32", **more)
    ber = np.mean(waveform(link, Impairments(25.0, 3.3, 700.0), range(frames)))
    ideal = np.mean([_ideal(link, 25.0, index) for index in range(frames)])
    say(f"{more}: {ber:.3e}, ideal input {ideal:.3e}")
    return {
        "grid": link.grid,
        "settings": more,
        "frames": frames,
        "snr_db": 25.0,
        "ber": float(ber),
        "ber_ideal": float(ideal),
        "slot_over_frame": slot(link).seconds / link.frame_seconds,
        "air_payload_mbps": air_payload_mbps(link),
    }


def tracking(link: Settings) -> dict[str, Any]:
    """Processor time of the front end for a frame once it is locked, beside the slot."""
    frames = min(max(20 * 1024 // link.m, 6), 20)
    made = Simulation(link, SEED, impairments=Impairments(25.0))
    stream = np.concatenate(list(made.pieces(range(frames))))
    front = FrontEnd(link)
    taken = []
    for piece in np.array_split(stream, frames + 1):
        before, start = front.counts.frames, time.process_time()
        for _ in front.push(piece):
            pass
        if front.counts.frames == before + 1 and before:
            taken.append((time.process_time() - start) * 1e3)
    return {
        "grid": link.grid,
        "median_ms": float(np.median(taken)),
        "slot_ms": slot(link).seconds * 1e3,
        "frames": len(taken),
    }


def _ideal(link: Settings, snr: float, index: int) -> float:
    return _wrong(link, source.simulate(link, snr, SEED, index).samples, index)


def _known(link: Settings, snr: float, frames: int) -> list[float]:
    """BER with the timing known, and no carrier offset."""
    made = Simulation(link, SEED, impairments=Impairments(snr))
    stream = np.concatenate(list(made.pieces(range(frames))))
    # The filter looks beyond the stream's ends.
    stream, starts = np.pad(stream, (link.q, 2 * link.q)), made.starts(frames)
    matched = MatchedFilter(link)
    samples = (matched.frame(stream, link.q + start, 0.0) for start in starts)
    return [_wrong(link, one, index) for index, one in enumerate(samples)]


def _wrong(link: Settings, samples: np.ndarray, index: int) -> float:
    got = reference.receive(samples.astype(np.complex128), link).bits.ravel()
    return float(np.mean(got != transmit.payload(SEED, index, link)))
