"""The benchmark's exact LMMSE, solved period by period, against the dense one and against CG."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.receiver import loss
from otfs_pipeline.link import equalize, frame
from otfs_pipeline.settings import Settings

LINK = Settings(grid="64x32")


def test_a_strip_makes_h_block_diagonal() -> None:
    taps = loss.window(LINK, np.random.default_rng(3))
    half, length = LINK.guard_bins // 2, LINK.m - LINK.guard_bins
    dense = equalize.dense_time(taps, LINK.q)
    rows = np.roll(np.arange(LINK.q), -LINK.pilot_bin[0]).reshape(LINK.n, LINK.m)
    for n, block in enumerate(loss._blocks(LINK, taps)):
        columns = rows[n, half + 1 : half + 1 + length]
        np.testing.assert_allclose(dense[np.ix_(rows[n], columns)], block, atol=1e-12)
        outside = np.delete(dense[:, columns], rows[n], axis=0)
        assert np.abs(outside).max() == 0


def test_many_steps_lose_nothing() -> None:
    got = loss.losses(LINK, (60,), (18.0, 24.0), frames=3)
    ber = got["ber"]
    assert isinstance(ber, dict)
    np.testing.assert_allclose(ber["cg60"], ber["lmmse"], atol=20 / frame.payload_bits(LINK))
    assert got["ber_cg_over_lmmse"]["cg60"] == pytest.approx([1, 1], abs=0.1)  # type: ignore[index]
