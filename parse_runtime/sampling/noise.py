"""The noise of `parse_runtime.kernels.sample` in numpy: a seed draws the same token in both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = 0xFFFFFFFF


def gumbel(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Float32 [N] Gumbel noise of the token ids [N]; `parse_runtime.kernels.sample.gumbel`."""
    halves = np.asarray([seed & _MASK, seed >> 32], np.uint32)
    low = _mix(_mix(halves[:1]) ^ halves[1:])
    key = _mix(low ^ np.asarray([position & _MASK], np.uint32))
    hashed = _mix(_mix(tokens.astype(np.uint32) + key) ^ low)
    u = (hashed.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    series = u * (1 + u * (np.float32(0.5) + u / 3))
    rate = np.where(u < 2.0**-8, series, -np.log(np.maximum(1 - u, np.float32(2.0**-24))))
    noise: NDArray[np.float32] = -np.log(rate)
    return noise


def _mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
