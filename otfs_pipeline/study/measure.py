"""What the study measures: every frame through all receivers of a link, errors and intervals."""

from __future__ import annotations

import argparse
import platform
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.errors import UsageError
from foundryrt.progress import progress_bar
from otfs_pipeline.link import frame
from otfs_pipeline.link.profile import Profile, find
from otfs_pipeline.settings import Settings
from otfs_pipeline.study import workers
from otfs_pipeline.study.bootstrap import interval, snr_at
from otfs_pipeline.study.journal import Journal
from otfs_pipeline.study.point import Point

TARGET_BER = 1e-2

Errors = dict[str, np.ndarray]
"""By receiver, [frames, SNRs]."""


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that `options` asks for, as it is stored.

    Points that the file `journal_path` names has already are not run again.
    """
    profile = find(options.channel)
    links = [_link(text, options) for text in options.link]
    pilots = [
        replace(_link(text, options), antennas=antennas, pilot=pilot, waveform=waveform)
        for text in options.pilot_link
        for antennas in options.antennas
        for pilot in options.pilot
        for waveform in options.waveform
    ]
    coded = [replace(link, code_rate=options.code_rate) for link in pilots]
    for link in (*links, *pilots):
        profile.check(link)
    if not options.code_rate:
        coded = []
    known = [_points("equalizers", link, profile, options) for link in links]
    estimated = [_points("estimation", link, profile, options) for link in pilots]
    loudest = [_points("peaks", link, profile, options) for link in pilots]
    decoded = [_points("decoding", link, profile, options) for link in coded]
    every = [point for points in (*known, *estimated, *loudest, *decoded) for point in points]
    with (
        closing(Journal(journal_path(options.output))) as journal,
        progress_bar(len(every), "simulating") as update,
    ):
        workers.run(every, journal, options.jobs, options.backend, options.cluster, update)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{processor()}, numpy {np.__version__}, float64",
        "interval": "95 % percentile bootstrap over frames, 2000 resamples",
        "target_ber": TARGET_BER,
        "perfect_csi": [_known(points, journal) for points in known],
        "embedded_pilot": [
            _estimated(points, loud, journal)
            for points, loud in zip(estimated, loudest, strict=True)
        ],
        "coded": [_decoded(points, journal) for points in decoded],
    }


def journal_path(output: str) -> Path | None:
    """Where the points of the study that writes `output` are kept; None where it writes nothing."""
    return Path(f"{output}.points") if output else None


def _points(
    kind: str, link: Settings, profile: Profile, options: argparse.Namespace
) -> list[Point]:
    """The frames of a link, each a point."""
    if kind != "equalizers":
        snrs = () if kind == "peaks" else tuple(options.pilot_snr)
        clip_db = options.clip_db if kind == "estimation" else 0.0
        return [
            Point(kind, link, profile, snrs, options.seed, i, clip_db=clip_db)
            for i in range(options.pilot_frames)
        ]
    iterations = tuple(sorted({*options.iterations, link.cg_iterations}))
    snrs, shares = tuple(options.snr), tuple(options.truncation)
    return [
        Point(kind, link, profile, snrs, options.seed, i, iterations, shares)
        for i in range(options.frames)
    ]


def _errors(points: list[Point], journal: Journal) -> Errors:
    rows = [journal.points[point.key] for point in points]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _known(points: list[Point], journal: Journal) -> dict[str, Any]:
    """Equalizers on a known channel."""
    errors = _errors(points, journal)
    entry = _entry(points, errors)
    if "lmmse" in errors:
        entry["snr_loss_db"] = _losses(np.array(points[0].snrs), errors)
    return entry


def _estimated(points: list[Point], loud: list[Point], journal: Journal) -> dict[str, Any]:
    """A pilot's estimate beside the known channel, and the frames' PAPR."""
    entry = _entry(points, _errors(points, journal))
    papr = _errors(loud, journal)["papr_db"]
    clip = {"clip_db": points[0].clip_db} if points[0].clip_db else {}
    return entry | clip | {"papr_db": _means({"papr_db": papr})["papr_db"][0]}


def _decoded(points: list[Point], journal: Journal) -> dict[str, Any]:
    """Errors before the LDPC decoder and after it."""
    errors = _errors(points, journal)
    entry = _entry(points, {"uncoded": errors["uncoded"]})
    blocks = {"blocks": errors["blocks"], "frames": errors["frames"]}
    return entry | {"code_rate": points[0].link.code_rate, "error_rate": _means(blocks)}


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


def _entry(points: list[Point], errors: Errors) -> dict[str, Any]:
    link = points[0].link
    return {
        "grid": link.grid,
        "nu_p": link.nu_p,
        "channel": points[0].profile.name,
        "nu_max": link.nu_max,
        "gain_model": link.gain_model,
        "pulse": link.pulse,
        "rolloff": link.rolloff,
        "modulation": link.modulation,
        "antennas": link.antennas,
        "pilot": link.pilot,
        "waveform": link.waveform,
        "guard_bins": link.guard_bins,
        "payload_mbps": frame.payload_bits(link) / link.frame_seconds / 1e6,
        "default_iterations": link.cg_iterations,
        "frames": len(points),
        "snr_db": list(points[0].snrs),
        "ber": _means(errors),
    }


def _means(errors: Errors) -> dict[str, list[dict[str, Any]]]:
    """Means over frames with their intervals, by name."""
    return {
        name: [
            {"mean": float(column.mean()), "ci95": interval(column, np.mean)} for column in values.T
        ]
        for name, values in errors.items()
    }


def _losses(snrs: np.ndarray, errors: Errors) -> dict[str, Any]:
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
