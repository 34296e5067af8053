"""The preconditioner of blocks that overlap: what iterations ask of it, and what it saves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otfs_pipeline.frames import source
from otfs_pipeline.link import overlapped, reference
from otfs_pipeline.link.overlapped import LEAST_DAMPING, Blocks
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings

BLOCKS = Blocks(count=3, span=20, overlap=7, order=64, first=2)
ROWS, COLUMNS = 2, slice(4, 55)


def _matrix(row: int, noise_variance: float) -> np.ndarray:
    """What is multiplied with, of one of two rows of 64 samples."""
    rng = np.random.default_rng(1)
    eigenvalue = rng.exponential(size=(BLOCKS.count, ROWS, BLOCKS.order))
    inverse = overlapped.inverse(eigenvalue, noise_variance, BLOCKS, COLUMNS)
    columns = []
    for unit in np.eye(64)[:, COLUMNS].T:
        rows = np.zeros((ROWS, 64), np.complex128)
        rows[row] = unit
        columns.append(inverse(rows)[row])
    return np.array(columns).T


@pytest.mark.parametrize("row", range(ROWS))
def test_it_is_hermitian_and_positive(row: int) -> None:
    matrix = _matrix(row, 0.05)
    outside = np.delete(matrix, np.r_[COLUMNS], axis=0)
    assert not outside.any()
    inside = matrix[COLUMNS]
    np.testing.assert_allclose(inside, inside.conj().T, atol=1e-12)
    assert np.linalg.eigvalsh(inside).min() > 0


def test_shares_add_up() -> None:
    total = np.zeros(BLOCKS.count * BLOCKS.span + 2 * BLOCKS.overlap)
    for block in range(BLOCKS.count):
        begin = block * BLOCKS.span
        total[begin : begin + BLOCKS.span + 2 * BLOCKS.overlap] += BLOCKS.shares(block)
    np.testing.assert_allclose(total, 1)


def test_noise_below_a_share_of_the_channel_makes_no_difference() -> None:
    np.testing.assert_array_equal(_matrix(0, 0.0), _matrix(0, 0.5 * LEAST_DAMPING))
    assert not np.array_equal(_matrix(0, 0.0), _matrix(0, 2 * LEAST_DAMPING))


@pytest.mark.parametrize("cluster", [1, 3])
@pytest.mark.parametrize("snr_db", [20.0, 30.0])
def test_a_sixth_of_the_iterations_finds_as_much(cluster: int, snr_db: float) -> None:
    link = Settings(grid="256x32", iterations=30)
    blocks = Geometry(link, 1, 4, cluster, preconditioned=True).blocks
    samples = source.simulate(link, snr_db, 2, 0).samples.astype(np.complex128)
    exact = reference.receive(samples, replace(link, iterations=400), preconditioned=True)
    plain = reference.receive(samples, link, periods=True)
    got = reference.receive(samples, link, blocks=blocks)
    assert link.overlapped_iterations == 5
    off = [np.linalg.norm(one.symbols - exact.symbols) for one in (got, plain)]
    assert off[0] < off[1]
