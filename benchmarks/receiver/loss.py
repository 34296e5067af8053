"""SNR that the receiver's conjugate gradients lose against exact LMMSE, channel and noise known.

Frames with pilot strip; both equalizers see the same ones. The strip keeps Doppler periods apart,
so LMMSE is solved exactly by N systems of a period's data bins each, whatever the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, today, write_results
from otfs_pipeline.link import banded, frame, qam, reference, transmit, zak
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.estimate import Estimate
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.bootstrap import snr_at

TARGET_BER = 1e-2
ITERATIONS = (8, 12, 16, 20, 24, 28, 32)
SNRS = (18.0, 20.0, 22.0, 24.0)


def losses(
    link: Settings, iterations: Sequence[int], snrs: Sequence[float], frames: int, seed: int = 1
) -> dict[str, object]:
    """BER by receiver and SNR; loss in dB at TARGET_BER by K, None where the SNRs miss it."""
    errors: dict[str, list[list[float]]] = {}
    for index in range(frames):
        for name, bers in _frame(link, iterations, snrs, np.random.default_rng([seed, index])):
            errors.setdefault(name, []).append(bers)
    mean = {name: np.mean(rows, axis=0) for name, rows in errors.items()}
    at = {name: snr_at(TARGET_BER, np.array(snrs), ber) for name, ber in mean.items()}
    loss = {name: at[name] - at["lmmse"] for name in at if name != "lmmse"}
    return {
        "grid": link.grid,
        "nu_p": link.nu_p,
        "modulation": link.modulation,
        "frames": frames,
        "snr_db": list(snrs),
        "ber": {name: ber.tolist() for name, ber in mean.items()},
        "snr_loss_db": {k: float(v) if np.isfinite(v) else None for k, v in loss.items()},
        "ber_cg_over_lmmse": {k: (mean[k] / mean["lmmse"]).tolist() for k in loss},
    }


def _frame(
    link: Settings, iterations: Sequence[int], snrs: Sequence[float], rng: np.random.Generator
) -> list[tuple[str, list[float]]]:
    taps = window(link, rng)
    bits = transmit.payload(int(rng.integers(1 << 31)), 0, link)
    h = banded.bands(taps, link.q)
    clean = banded.apply_samples(transmit.transmit(bits, link), h)
    noise = (rng.standard_normal(link.q) + 1j * rng.standard_normal(link.q)) / np.sqrt(2)
    blocks = _blocks(link, taps)
    pilot = reference.pilot_response(link, h)
    rows: dict[str, list[float]] = {"lmmse": []}
    for snr in snrs:
        sigma2 = 10 ** (-snr / 10)
        received = clean + np.sqrt(sigma2) * noise
        rows["lmmse"].append(_lmmse(link, blocks, received - pilot, sigma2, bits))
        for k in iterations:
            known = Estimate(taps, sigma2)
            got = reference.receive(received, replace(link, iterations=k), known, periods=True)
            rows.setdefault(f"cg{k}", []).append(float(np.mean(got.bits.ravel() != bits)))
    return list(rows.items())


def window(link: Settings, rng: np.random.Generator) -> Taps:
    """A channel within the receiver's window, as its model has it."""
    taps = VEHICULAR_A.taps(rng, link)
    inside = (taps.delay >= link.first_tap) & (taps.delay <= link.guard_bins // 2)
    inside &= np.abs(taps.doppler) <= link.doppler_range
    return Taps(taps.value[inside], taps.delay[inside], taps.doppler[inside])


def _blocks(link: Settings, taps: Taps) -> np.ndarray:
    """H of each period, [N, M, data bins]."""
    return np.stack([period_matrix(link, taps, period) for period in range(link.n)])


def period_matrix(link: Settings, taps: Taps, period: int) -> np.ndarray:
    """H of a period, [M, data bins]: column i is the response to data bin i."""
    half = link.guard_bins // 2
    length = link.m - link.guard_bins
    matrix = np.zeros((link.m, length), np.complex128)
    column = np.arange(length)
    for a in np.unique(taps.delay):
        here = taps.delay == a
        sent = link.pilot_bin[0] + period * link.m + half + 1 + column
        phase = np.exp(2j * np.pi * np.outer(sent, taps.doppler[here]) / link.q)
        matrix[half + 1 + column + a, column] = phase @ taps.value[here]
    return matrix


def _lmmse(
    link: Settings, blocks: np.ndarray, received: np.ndarray, sigma2: float, bits: np.ndarray
) -> float:
    kp, half = link.pilot_bin[0], link.guard_bins // 2
    rows = np.roll(received, -kp).reshape(link.n, link.m)
    adjoint = blocks.conj().transpose(0, 2, 1)
    length = blocks.shape[2]
    inverse = np.linalg.inv(adjoint @ blocks + sigma2 * np.eye(length))
    x = np.zeros((link.n, link.m), np.complex128)
    x[:, half + 1 : half + 1 + length] = (inverse @ (adjoint @ rows[:, :, None]))[:, :, 0]
    trace = float(np.trace(inverse, axis1=1, axis2=2).real.mean())
    mu = 1 - sigma2 * trace / length
    symbols = frame.extract(zak.zak(np.roll(x.ravel(), kp), link.m, link.n), link) / mu
    return float(np.mean((qam.max_log_llr(symbols, 1.0, link.modulation) < 0).ravel() != bits))


def small_grids(frames: int) -> list[dict[str, object]]:
    """Two small grids, and one whose periods are longer."""
    links = (
        # The narrowest strip: the usual one leaves no more than 8 data bins of a period.
        Settings(grid="31x37", nu_p=30e3, guard=9, max_taps=64),
        Settings(grid="64x32"),
        Settings(grid="256x32"),
    )
    return [losses(link, ITERATIONS, SNRS, max(1, frames * 64 // link.m)) for link in links]


def run(
    frames: Annotated[int, Option(help="Frames, at 64 delay bins; more at fewer.")] = 60,
    output: Output = RESULTS / "otfs_loss.json",
) -> None:
    """Measure the SNR that conjugate gradients lose against exact LMMSE, on small grids."""
    device = f"{cpu()}, numpy {np.__version__}, float64"
    write_results(output, {"date": today(), "device": device, "snr_loss": small_grids(frames)})
