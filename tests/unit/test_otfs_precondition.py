"""The study's iterative methods against direct solutions."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from benchmarks.receiver import loss, precondition
from otfs_pipeline.link import equalize
from otfs_pipeline.settings import Settings

LINK = Settings(grid="64x32")
SIGMA2 = 0.01


@pytest.fixture(scope="module")
def system():
    taps = loss.window(LINK, np.random.default_rng(5))
    h = loss.period_matrix(LINK, taps, 3)
    matrix = h.conj().T @ h + SIGMA2 * np.eye(h.shape[1])
    right = h.conj().T @ np.random.default_rng(6).standard_normal((h.shape[0], 1))
    return taps, matrix, right


def _after(method: precondition.Method, steps: int, matrix: np.ndarray, right: np.ndarray):
    return list(islice(method(matrix, right), steps))[-1]


def test_without_a_preconditioner_the_steps_are_those_of_the_receiver(system) -> None:
    _, matrix, right = system
    expected = equalize.solve(lambda p: matrix @ p, right, 9).x
    got = _after(precondition.gradients(lambda r: r), 9, matrix, right)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_inverse_itself_takes_one_step(system) -> None:
    _, matrix, right = system
    inverse = np.linalg.inv(matrix)
    got = _after(precondition.gradients(lambda r: inverse @ r), 1, matrix, right)
    np.testing.assert_allclose(got, inverse @ right, rtol=1e-6)


def test_all_methods_lead_to_the_solution(system) -> None:
    taps, matrix, right = system
    exact = np.linalg.solve(matrix, right)
    for name, method in precondition.methods(LINK, taps, matrix, SIGMA2, 3).items():
        got = _after(method, 400 if name == "chebyshev" else 80, matrix, right)
        assert np.linalg.norm(got - exact) < 1e-4 * np.linalg.norm(exact), name


def test_a_circulant_preconditioner_needs_fewer_steps(system) -> None:
    taps, matrix, right = system
    exact = np.linalg.solve(matrix, right)
    methods = precondition.methods(LINK, taps, matrix, SIGMA2, 3)
    off = {
        name: np.linalg.norm(_after(methods[name], 6, matrix, right) - exact)
        for name in ("none", "jacobi", "circulant")
    }
    assert off["circulant"] < 0.1 * off["none"]
    assert off["jacobi"] > 0.5 * off["none"]
