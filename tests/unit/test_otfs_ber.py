"""BER of the tables of docs/otfs.md, with few frames, within what that number of frames allows.

BER varies from channel to channel, so a mean over F frames has a standard error of s/√F. The
spread s comes from the stored results, whose frames are many; the tables rest on 40 to 60 frames
of their own, so that their error is taken as s/√50.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.receiver import reference
from benchmarks.report import RESULTS
from otfs_pipeline.settings import Settings

TABLE = {
    (4, 10.0): (3.27e-2, 3.29e-2, 3.27e-2, 3.27e-2),
    (16, 15.0): (7.05e-2, 7.22e-2, 7.05e-2, 7.05e-2),
    (16, 20.0): (2.06e-2, 2.76e-2, 2.12e-2, 2.06e-2),
    (16, 25.0): (3.39e-3, 1.2e-2, 4.3e-3, 3.7e-3),
}


STORED = json.loads((RESULTS / "otfs_reference.json").read_text())
RECEIVERS = ("lmmse", "cg10", "cg20", "cg30")


def stored(points: int, snr_db: float, value: str) -> np.ndarray:
    """A field of the stored results for each of RECEIVERS."""
    for point in STORED["perfect_csi"]["points"]:
        if (point["modulation"], point["snr_db"]) == (points, snr_db):
            return np.array([point[name][value] for name in RECEIVERS])
    raise LookupError(f"{points}-QAM at {snr_db} dB is not in the stored results")


def spread(points: int, snr_db: float, value: str) -> np.ndarray:
    """Standard deviation from frame to frame."""
    return stored(points, snr_db, value) / 1.96 * np.sqrt(STORED["perfect_csi"]["frames"])


@pytest.mark.parametrize(("points", "snr_db"), TABLE)
def test_stored_results_agree_with_the_table(points: int, snr_db: float) -> None:
    table, frames = np.array(TABLE[points, snr_db]), STORED["perfect_csi"]["frames"]
    assert frames >= 200
    error = np.sqrt(1 / frames + 1 / 50)
    gap = np.abs(stored(points, snr_db, "ber") - table)
    assert (gap < 3 * error * spread(points, snr_db, "ci95")).all()
    # Every receiver saw the same frames, so what CG has over LMMSE is known far better. The table
    # has three digits at most: half of the last one of both terms.
    gap = np.abs(stored(points, snr_db, "over") - (table - table[0]))
    assert (gap < 3 * error * spread(points, snr_db, "over_ci95") + 1.5e-2 * table).all()


# The lowest SNR, where the receivers regularize most, and the highest, where CG is furthest behind.
@pytest.mark.parametrize(("points", "snr_db"), [(4, 10.0), (16, 25.0)])
def test_todays_code_agrees_with_the_stored_results(points: int, snr_db: float) -> None:
    rng = np.random.default_rng([77, points, int(snr_db)])
    rows = np.array([reference.perfect_frame(points, snr_db, rng) for _ in range(10)])
    for value, interval, found in (
        ("ber", "ci95", rows),
        ("over", "over_ci95", rows - rows[:, :1]),
    ):
        error = spread(points, snr_db, interval) * np.sqrt(1 / len(rows) + 1 / 400)
        gap = np.abs(found.mean(0) - stored(points, snr_db, value))
        assert (gap <= 4 * error).all()


def test_estimated_over_perfect_at_1024x32() -> None:
    rng = np.random.default_rng(78)
    link = Settings(iterations=30)
    perfect, estimated = np.mean([reference.pilot_frame(link, 20.0, rng) for _ in range(4)], axis=0)
    assert estimated / perfect == pytest.approx(1.30 / 1.18, abs=0.08)


@pytest.mark.parametrize(
    ("snr_db", "ratio"), [(15.0, 6.4 / 6.2), (20.0, 1.30 / 1.18), (25.0, 6.5 / 5.4)]
)
def test_stored_loss_of_the_estimate(snr_db: float, ratio: float) -> None:
    point = next(p for p in STORED["embedded_pilot"]["points"] if p["snr_db"] == snr_db)
    got = point["estimated"]["ber"] / point["perfect"]["ber"]
    assert got == pytest.approx(ratio, abs=0.08)
