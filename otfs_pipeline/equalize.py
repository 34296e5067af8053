"""LMMSE equalization by conjugate gradients with a fixed iteration count."""
from __future__ import annotations

import numpy as np

from otfs_pipeline.channel import Taps, apply, apply_adjoint


def conjugate_gradient(received: np.ndarray, taps: Taps, noise_variance: float,
                       iterations: int) -> np.ndarray:
    """Solve (H^H H + σ²I) x = H^H y on [M, N]; received must be nonzero, σ² positive."""
    x = np.zeros_like(received, dtype=np.complex128)
    residual = apply_adjoint(received, taps)
    direction = residual
    energy = np.vdot(residual, residual).real
    for _ in range(iterations):
        q = apply_adjoint(apply(direction, taps), taps) + noise_variance * direction
        alpha = energy / np.vdot(direction, q).real
        x = x + alpha * direction
        residual = residual - alpha * q
        next_energy = np.vdot(residual, residual).real
        direction = residual + next_energy / energy * direction
        energy = next_energy
    return x


def lmmse(received: np.ndarray, taps: Taps, noise_variance: float) -> tuple[np.ndarray, float]:
    """Dense solution [M, N] and the bias μ; O(Q³), for small grids only."""
    shape, q = received.shape, received.size
    h = np.stack([apply(unit.reshape(shape), taps).ravel() for unit in np.eye(q)], axis=1)
    gram = h.conj().T @ h
    inverse = np.linalg.inv(gram + noise_variance * np.eye(q))
    estimate = inverse @ (h.conj().T @ received.ravel())
    return estimate.reshape(shape), float(np.trace(inverse @ gram).real / q)
