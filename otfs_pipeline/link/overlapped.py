"""A preconditioner of blocks that overlap: each has a circulant matrix of its own.

Within a block the channel hardly turns, so HᴴH + σ² is nearly the circulant matrix of
|H(t,f)|² + σ² in the block's middle, but for the ends. Between neighbours samples count by shares:
over 2 `overlap` samples at an end a block's share is a ramp, and the neighbour's is the rest to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEAST_DAMPING = 1e-2
"""Of the mean of |H(t,f)|²: where there is less noise, this is added in its place. Near its nulls
the channel's turning is more than what is left of it."""


@dataclass(frozen=True)
class Blocks:
    """How a Doppler period is divided: `count` blocks of `span` samples, from sample `first` on.

    Each takes `overlap` samples of its neighbours too; `order` is that of its circulant matrix.
    """

    count: int
    span: int
    overlap: int
    order: int
    first: int

    def middles(self, length: int) -> np.ndarray:
        """The sample in the middle of each block [count], of a period's `length` samples."""
        inside = np.arange(self.count) * self.span + self.span // 2
        return self.first + np.minimum(inside, length - 1)

    def shares(self, block: int) -> np.ndarray:
        """Of each of a block's samples, neighbours' included: [span + 2 overlap]."""
        ramp = (np.arange(2 * self.overlap) + 0.5) / (2 * self.overlap)
        share = np.ones(self.span + 2 * self.overlap)
        if block > 0:
            share[: ramp.size] = ramp
        if block + 1 < self.count:
            share[self.span :] = ramp[::-1]
        return share


def inverse(
    eigenvalue: np.ndarray, noise_variance: float, blocks: Blocks, columns: slice
) -> Callable[[np.ndarray], np.ndarray]:
    """Products of rows [N, M] with Σ Wᵀ C⁻¹ W over the blocks, within `columns`.

    `eigenvalue` [count, N, order] is |H(t,f)|² in the blocks' middles; W² are the shares. Rows are
    0 outside the columns, and stay so.
    """
    least = LEAST_DAMPING * eigenvalue.mean(axis=-1, keepdims=True)
    factor = _upper_half(1 / (eigenvalue + np.maximum(noise_variance, least)))
    weights = [np.sqrt(blocks.shares(block)) for block in range(blocks.count)]
    taken = blocks.span + 2 * blocks.overlap

    def product(rows: np.ndarray) -> np.ndarray:
        # So that every block has all of its samples.
        padded = np.pad(rows, [(0, 0), (blocks.overlap, blocks.count * blocks.span + taken)])
        total = np.zeros_like(padded)
        for block, weight in enumerate(weights):
            begin = blocks.first + block * blocks.span
            part = slice(begin, begin + taken)
            spectrum = factor[block] * np.fft.fft(weight * padded[:, part], blocks.order, axis=1)
            total[:, part] += weight * np.fft.ifft(spectrum, axis=1)[:, :taken]
        out = np.zeros_like(rows)
        out[:, columns] = total[:, blocks.overlap :][:, columns]
        return out

    return product


def _upper_half(value: np.ndarray) -> np.ndarray:
    """The upper half of a float32, which is all that the kernels keep of a factor."""
    bits = value.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)
