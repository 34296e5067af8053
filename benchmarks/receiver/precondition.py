"""Iterations that preconditioned conjugate gradients need for the bit error rate of exact LMMSE.

Channel and noise known, each Doppler period on its own, as in loss.py. All estimates are made
unbiased by the sent symbols, so that they differ by the iterations alone.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated

import numpy as np
from typer import Option

from benchmarks.receiver.loss import TARGET_BER, period_matrix, window
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from otfs_pipeline.link import equalize, frame, qam, transmit, zak
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.bootstrap import snr_at

# Grid -> what else its link needs (see loss.small_grids), and frames.
LINKS = {
    "31x37": ({"nu_p": 30e3, "guard": 9, "max_taps": 64}, 64),
    "64x32": ({}, 32),
    "256x32": ({}, 8),
    "1024x32": ({}, 3),
}
SNRS = (18.0, 20.0, 22.0, 24.0)
STEPS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)
ALLOWED = (0.05, 0.2)
BLOCK = 16

Inverse = Callable[[np.ndarray], np.ndarray]
Method = Callable[[np.ndarray, np.ndarray], Iterator[np.ndarray]]


def gradients(inverse: Inverse) -> Method:
    """Iterates of conjugate gradients, preconditioned by `inverse`."""

    def iterates(matrix: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
        x, residual = np.zeros_like(right), right
        z = direction = inverse(residual)
        energy = np.vdot(residual, z).real
        while True:
            image = matrix @ direction
            alpha = energy / np.vdot(direction, image).real
            x, residual = x + alpha * direction, residual - alpha * image
            yield x
            z = inverse(residual)
            before, energy = energy, np.vdot(residual, z).real
            direction = z + energy / before * direction

    return iterates


def chebyshev(least: float, most: float) -> Method:
    """Iterates of the Chebyshev semi-iteration for eigenvalues from `least` to `most`."""

    def iterates(matrix: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
        middle, half = (most + least) / 2, (most - least) / 2
        x, residual, rho = np.zeros_like(right), right, half / middle
        step = residual / middle
        while True:
            x, residual = x + step, residual - matrix @ step
            yield x
            following = 1 / (2 * middle / half - rho)
            step = following * (rho * step + 2 / half * residual)
            rho = following

    return iterates


def methods(
    link: Settings, taps: Taps, matrix: np.ndarray, sigma2: float, n: int
) -> dict[str, Method]:
    """By name, for the system `matrix` of period n."""
    diagonal = matrix.diagonal().real[:, None]
    middle = link.pilot_bin[0] + n * link.m + link.m // 2
    eigenvalue = equalize.period_eigenvalues(taps, link.q, np.array([middle]), link.m)
    spectrum = eigenvalue[0] + sigma2
    size = matrix.shape[0]
    starts = range(0, size, BLOCK)
    blocks = [np.linalg.inv(matrix[i : i + BLOCK, i : i + BLOCK]) for i in starts]

    def circulant(r: np.ndarray) -> np.ndarray:
        return np.fft.ifft(np.fft.fft(r, link.m, axis=0) / spectrum[:, None], axis=0)[:size]

    def block_jacobi(r: np.ndarray) -> np.ndarray:
        return np.concatenate([b @ r[i : i + BLOCK] for i, b in zip(starts, blocks, strict=True)])

    return {
        "none": gradients(lambda r: r),
        "jacobi": gradients(lambda r: r / diagonal),
        f"block_jacobi_{BLOCK}": gradients(block_jacobi),
        "circulant": gradients(circulant),
        "chebyshev": chebyshev(sigma2, _largest(matrix)),
    }


def _largest(matrix: np.ndarray) -> float:
    """A little more than the largest eigenvalue, by power iteration."""
    x = np.ones(matrix.shape[0], np.complex128)
    for _ in range(30):
        x = matrix @ (x / np.linalg.norm(x))
    return 1.1 * float(np.linalg.norm(x))


def frame_errors(link: Settings, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Method -> BER [steps, SNRs] of one frame; that of exact LMMSE is [1, SNRs]."""
    taps = window(link, rng)
    bits = transmit.payload(int(rng.integers(1 << 31)), 0, link)
    half, length = link.guard_bins // 2, link.m - link.guard_bins
    columns = slice(half + 1, half + 1 + length)
    sent = np.roll(transmit.transmit(bits, link), -link.pilot_bin[0]).reshape(link.n, link.m)
    noise = rng.standard_normal((2, link.n, link.m)) / np.sqrt(2)
    found: dict[str, np.ndarray] = {}

    def keep(name: str, step: int, at: int, n: int, x: np.ndarray) -> None:
        count = 1 if name == "lmmse" else len(STEPS)
        shape = (count, len(SNRS), link.n, link.m)
        found.setdefault(name, np.zeros(shape, np.complex64))[step, at, n, columns] = x[:, 0]

    for n in range(link.n):
        h = period_matrix(link, taps, n)
        gram = h.conj().T @ h
        clean = h @ sent[n, columns]
        for at, snr in enumerate(SNRS):
            sigma2 = 10 ** (-snr / 10)
            received = clean + np.sqrt(sigma2) * (noise[0, n] + 1j * noise[1, n])
            right = (h.conj().T @ received)[:, None]
            matrix = gram + sigma2 * np.eye(length)
            keep("lmmse", 0, at, n, np.linalg.solve(matrix, right))
            for name, method in methods(link, taps, matrix, sigma2, n).items():
                for step, x in enumerate(islice(method(matrix, right), STEPS[-1]), 1):
                    if step in STEPS:
                        keep(name, STEPS.index(step), at, n, x)
    symbols = frame.extract(_grid(sent, link, columns), link)
    return {
        name: np.array(
            [[_ber(_grid(x, link, columns), symbols, bits, link) for x in row] for row in rows]
        )
        for name, rows in found.items()
    }


def _grid(rows: np.ndarray, link: Settings, columns: slice) -> np.ndarray:
    kept = np.zeros((link.n, link.m), np.complex128)
    kept[:, columns] = rows[:, columns]
    return zak.zak(np.roll(kept.ravel(), link.pilot_bin[0]), link.m, link.n)


def _ber(grid: np.ndarray, symbols: np.ndarray, bits: np.ndarray, link: Settings) -> float:
    estimate = frame.extract(grid, link)
    unbiased = estimate * (np.vdot(symbols, symbols) / np.vdot(symbols, estimate)).real
    return float(np.mean((qam.max_log_llr(unbiased, 1.0, link.modulation) < 0).ravel() != bits))


def study(grid: str) -> dict[str, object]:
    """Loss against LMMSE at TARGET_BER by method and K, and the least K within ALLOWED."""
    changes, frames = LINKS[grid]
    link = Settings(grid=grid, **changes)  # type: ignore[arg-type]
    errors: dict[str, list[np.ndarray]] = {}
    for index in range(frames):
        print(f"{grid}: frame {index + 1} of {frames}", file=sys.stderr, flush=True)
        for name, ber in frame_errors(link, np.random.default_rng([7, index])).items():
            errors.setdefault(name, []).append(ber)
    mean = {name: np.mean(rows, axis=0) for name, rows in errors.items()}
    exact = snr_at(TARGET_BER, np.array(SNRS), mean.pop("lmmse")[0])
    report = {}
    for name, rows in mean.items():
        losses = [snr_at(TARGET_BER, np.array(SNRS), row) - exact for row in rows]
        least = {
            str(db): next((k for k, x in zip(STEPS, losses, strict=True) if x <= db), None)
            for db in ALLOWED
        }
        shown = {
            str(k): float(x) if np.isfinite(x) else None for k, x in zip(STEPS, losses, strict=True)
        }
        report[name] = {"snr_loss_db": shown, "least_k_within_db": least}
    return {"grid": grid, "frames": frames, "snr_db": list(SNRS), "methods": report}


def run(
    grids: Annotated[str, Option(help="Grids, comma-separated.")] = ",".join(LINKS),
    output: Output = RESULTS / "otfs_precondition.json",
) -> None:
    """Measure how many iterations each preconditioner needs."""
    result = {
        "date": today(),
        "machine": f"{platform.machine()}, numpy {np.__version__}, float64",
        "grids": [study(grid) for grid in chosen(grids, tuple(LINKS), "--grids")],
    }
    write_results(output, result)
    print(json.dumps(result, indent=1))
