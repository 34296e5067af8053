"""What the study measures: every frame through all receivers of a link, errors and intervals."""

from __future__ import annotations

import argparse
import itertools
import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.errors import UsageError
from foundryrt.progress import progress_bar
from otfs_pipeline.link.profile import Profile, find
from otfs_pipeline.settings import Settings
from otfs_pipeline.study import linklevel
from otfs_pipeline.study.bootstrap import interval, snr_at
from otfs_pipeline.study.coded import decoding

TARGET_BER = 1e-2

Simulation = Callable[[np.random.Generator], linklevel.Errors]
"""One frame: its errors by receiver, each a list over the SNRs."""
Run = Callable[[Simulation, int], dict[str, np.ndarray]]
"""So many frames: BER [frames, SNRs] by receiver."""


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that `options` asks for, as it is stored."""
    profile = find(options.channel)
    links = [_link(text, options) for text in options.link]
    pilots = [_link(text, options) for text in options.pilot_link]
    coded = [replace(link, code_rate=options.code_rate) for link in pilots]
    for link in (*links, *pilots):
        profile.check(link)
    if not options.code_rate:
        coded = []
    total = options.frames * len(links) + options.pilot_frames * len([*pilots, *coded])
    with progress_bar(total, "simulating") as update:
        finished = itertools.count(1)

        def run(one: Simulation, frames: int) -> dict[str, np.ndarray]:
            return _frames(one, frames, options.seed, lambda: update(next(finished)))

        known = [_known(link, profile, options, run) for link in links]
        estimated = [_estimated(link, profile, options, run) for link in pilots]
        decoded = [_decoded(link, profile, options, run) for link in coded]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{processor()}, numpy {np.__version__}, float64",
        "interval": "95 % percentile bootstrap over frames, 2000 resamples",
        "target_ber": TARGET_BER,
        "perfect_csi": known,
        "embedded_pilot": estimated,
        "coded": decoded,
    }


def _known(
    link: Settings, profile: Profile, options: argparse.Namespace, run: Run
) -> dict[str, Any]:
    """Equalizers on a known channel."""
    counts = sorted({*options.iterations, link.iterations})

    def one(rng: np.random.Generator) -> linklevel.Errors:
        return linklevel.equalizers(link, profile, options.snr, counts, options.truncation, rng)

    errors = run(one, options.frames)
    entry = _entry(link, profile, options.snr, errors)
    if "lmmse" in errors:
        entry["snr_loss_db"] = _losses(np.array(options.snr), errors)
    return entry


def _estimated(
    link: Settings, profile: Profile, options: argparse.Namespace, run: Run
) -> dict[str, Any]:
    """The pilot's estimate beside the known channel."""

    def one(rng: np.random.Generator) -> linklevel.Errors:
        return linklevel.estimation(link, profile, options.pilot_snr, rng)

    return _entry(link, profile, options.pilot_snr, run(one, options.pilot_frames))


def _decoded(
    link: Settings, profile: Profile, options: argparse.Namespace, run: Run
) -> dict[str, Any]:
    """Errors before the LDPC decoder and after it."""

    def one(rng: np.random.Generator) -> linklevel.Errors:
        return decoding(link, profile, options.pilot_snr, rng)

    errors = run(one, options.pilot_frames)
    entry = _entry(link, profile, options.pilot_snr, {"uncoded": errors["uncoded"]})
    blocks = {"blocks": errors["blocks"], "frames": errors["frames"]}
    return entry | {"code_rate": link.code_rate, "error_rate": _points(blocks)}


def _link(text: str, options: argparse.Namespace) -> Settings:
    grid, _, period = text.partition("@")
    try:
        nu_p = float(period) if period else 15e3
    except ValueError:
        raise UsageError(f"link {text!r}: write GRID@NU_P, such as 31x37@30e3") from None
    return Settings(
        grid=grid,
        nu_p=nu_p,
        nu_max=options.nu_max,
        pulse=options.pulse,
        rolloff=options.rolloff,
        modulation=options.modulation,
        gain_model=options.gain_model,
    )


def _frames(
    one: Simulation, count: int, seed: int, finished: Callable[[], None]
) -> dict[str, np.ndarray]:
    """BER [frames, SNRs] of each receiver."""
    rows = []
    for index in range(count):
        rows.append(one(np.random.default_rng([seed, index])))
        finished()
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _entry(
    link: Settings, profile: Profile, snrs: list[float], errors: dict[str, np.ndarray]
) -> dict[str, Any]:
    return {
        "grid": link.grid,
        "nu_p": link.nu_p,
        "channel": profile.name,
        "nu_max": link.nu_max,
        "gain_model": link.gain_model,
        "pulse": link.pulse,
        "rolloff": link.rolloff,
        "modulation": link.modulation,
        "default_iterations": link.iterations,
        "frames": len(next(iter(errors.values()))),
        "snr_db": snrs,
        "ber": _points(errors),
    }


def _points(errors: dict[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    """Means over frames [frames, SNRs] with their intervals, by name."""
    return {
        name: [
            {"mean": float(column.mean()), "ci95": interval(column, np.mean)} for column in values.T
        ]
        for name, values in errors.items()
    }


def _losses(snrs: np.ndarray, errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """By receiver: SNR at TARGET_BER above LMMSE's in dB; None where the points do not cover it."""
    losses = {}
    for name, values in errors.items():
        both = np.stack([errors["lmmse"], values], axis=1)

        def loss(frames: np.ndarray) -> float:
            lmmse, other = frames.mean(axis=0)
            return snr_at(TARGET_BER, snrs, other) - snr_at(TARGET_BER, snrs, lmmse)

        found = loss(both)
        losses[name] = {
            "mean": found if np.isfinite(found) else None,
            "ci95": interval(both, loss),
        }
    return losses


def processor() -> str:
    """The CPU's name, where it is known."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
