"""Bit error rates of the numpy receiver at published reference points.

Perfect CSI: 31×37, nu_p 30 kHz, RRC 0.6, 815 Hz, fixed-magnitude gains, every bin data. Estimated
CSI: 1024×32 with the embedded pilot. Within a table every receiver sees the same frames. The
confidence interval is 1.96 standard errors of the mean over frames, which are independent draws.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from typer import Option

from benchmarks.report import RESULTS, Output, today, write_results
from otfs_pipeline.link import banded, channel, equalize, qam, zak
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.settings import Settings
from otfs_pipeline.study import linklevel
from otfs_pipeline.study.measure import processor

PERFECT_POINTS = ((4, 10.0), (16, 15.0), (16, 20.0), (16, 25.0))
PILOT_POINTS = (15.0, 20.0, 25.0)
ITERATIONS = (10, 20, 30)


def noise(rng: np.random.Generator, size: int, variance: float) -> np.ndarray:
    return np.sqrt(variance / 2) * (rng.standard_normal(size) + 1j * rng.standard_normal(size))


def perfect_frame(points: int, snr_db: float, rng: np.random.Generator) -> list[float]:
    """BER of one frame: LMMSE, then CG with each of ITERATIONS."""
    m, n, nu_p, sigma2 = 31, 37, 30e3, 10 ** (-snr_db / 10)
    paths = VEHICULAR_A.draw(rng, 815.0, "fixed")
    taps = channel.effective_taps(paths, m, n, nu_p, (0.6, 0.6))
    bits = rng.integers(0, 2, (m * n, points.bit_length() - 1))
    grid = qam.modulate(bits, points).reshape(m, n)
    h = banded.bands(taps, m * n)
    received = banded.apply_samples(zak.inverse_zak(grid), h) + noise(rng, m * n, sigma2)

    def ber(estimate: np.ndarray, mu: float) -> float:
        llr = qam.max_log_llr(estimate.ravel() / mu, 1.0, points)
        return float(np.mean((llr < 0) != bits))

    errors = [ber(*equalize.lmmse(zak.zak(received, m, n), taps, sigma2))]
    eigenvalue = equalize.eigenvalues(taps, (64, 64))
    for iterations in ITERATIONS:
        solution = equalize.frequency_cg(received, h, sigma2, iterations)
        mu, _ = equalize.bias(solution, eigenvalue, sigma2)
        errors.append(ber(zak.zak(solution.x, m, n), mu))
    return errors


def pilot_frame(link: Settings, snr_db: float, rng: np.random.Generator) -> list[float]:
    """BER of one frame with the channel and noise known, and with both estimated."""
    errors = linklevel.estimation(link, VEHICULAR_A, [snr_db], rng)
    return [errors["perfect"][0], errors["estimated"][0]]


def summary(names: list[str], frames: list[list[float]]) -> dict[str, dict[str, float]]:
    """Mean BER for each name, and what it has over names[0] in the same frames."""
    values = np.array(frames)
    over = values - values[:, :1]
    return {
        name: {
            "ber": float(values[:, i].mean()),
            "ci95": _half_width(values[:, i]),
            "over": float(over[:, i].mean()),
            "over_ci95": _half_width(over[:, i]),
        }
        for i, name in enumerate(names)
    }


def _half_width(values: np.ndarray) -> float:
    return float(1.96 * values.std(ddof=1) / np.sqrt(values.size))


def run(
    frames: Annotated[int, Option(help="Frames of each point, channel known.")] = 400,
    pilot_frames: Annotated[int, Option(help="Frames of each point, channel estimated.")] = 100,
    output: Output = RESULTS / "otfs_reference.json",
) -> None:
    """Measure bit error rates of the numpy receiver: LMMSE, CG, and an estimated channel."""
    perfect = []
    for points, snr_db in PERFECT_POINTS:
        rng = np.random.default_rng([1, points, int(snr_db)])
        rows = [perfect_frame(points, snr_db, rng) for _ in range(frames)]
        ber = summary(["lmmse", *(f"cg{k}" for k in ITERATIONS)], rows)
        perfect.append({"modulation": points, "snr_db": snr_db, **ber})
        print(perfect[-1], flush=True)
    link, pilot = Settings(iterations=30), []
    for snr_db in PILOT_POINTS:
        rng = np.random.default_rng([2, int(snr_db)])
        rows = [pilot_frame(link, snr_db, rng) for _ in range(pilot_frames)]
        pilot.append({"snr_db": snr_db, **summary(["perfect", "estimated"], rows)})
        print(pilot[-1], flush=True)
    result = {
        "date": today(),
        "device": f"{processor()}, numpy {np.__version__}, float64",
        "perfect_csi": {
            "grid": "31x37", "nu_p": 30e3, "rolloff": 0.6, "nu_max": 815.0,
            "gain_model": "fixed", "frames": frames, "points": perfect,
        },
        "embedded_pilot": {
            "grid": link.grid, "nu_p": link.nu_p, "rolloff": link.rolloff, "nu_max": link.nu_max,
            "gain_model": link.gain_model, "modulation": link.modulation, "cg_iterations": 30,
            "guard_bins": link.guard_bins, "tap_sigmas": link.tap_sigmas,
            "max_taps": link.max_taps, "frames": pilot_frames, "points": pilot,
        },
    }  # fmt: skip
    write_results(output, result)
