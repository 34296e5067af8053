"""Cyclic redundancy checks of NR (3GPP TS 38.212, 5.1) as products over GF(2)."""

from __future__ import annotations

from functools import cache

import numpy as np

# Exponents of the generator polynomials, the highest first.
_EXPONENTS = {
    "24A": (24, 23, 18, 17, 14, 11, 10, 7, 6, 5, 4, 3, 1, 0),
    "24B": (24, 23, 6, 5, 1, 0),
    "16": (16, 12, 5, 0),
}


def length(name: str) -> int:
    """Check bits of the CRC `24A`, `24B` or `16`."""
    return _EXPONENTS[name][0]


@cache
def remainders(name: str, count: int) -> np.ndarray:
    """Row i: x^(count-1-i) mod the generator, highest power first, uint8 [count, check bits].

    The remainder of a word of `count` bits is its product with these rows over GF(2).
    """
    width = length(name)
    low = sum(1 << exponent for exponent in _EXPONENTS[name][1:])
    values = np.empty(count, np.int64)
    value = 1
    for index in range(count - 1, -1, -1):
        values[index] = value
        value <<= 1
        if value >> width:
            value = (value ^ low) & ((1 << width) - 1)
    bits = ((values[:, None] >> np.arange(width - 1, -1, -1)) & 1).astype(np.uint8)
    bits.flags.writeable = False
    return bits


def check_bits(name: str, bits: np.ndarray) -> np.ndarray:
    """The CRC's parity bits of words [..., count] of 0 or 1, uint8 [..., check bits]."""
    width = length(name)
    rows = remainders(name, bits.shape[-1] + width)[: bits.shape[-1]]
    # Sums of bits are far below 2^24, so that float32 holds them exactly, and BLAS is fast.
    sums = bits.astype(np.float32) @ rows.astype(np.float32)
    return (sums.astype(np.int64) & 1).astype(np.uint8)


def passes(name: str, word: np.ndarray) -> np.ndarray:
    """Whether words [..., count] that end in their check bits have remainder 0, bool [...]."""
    width = length(name)
    expected = check_bits(name, word[..., :-width])
    return np.asarray((expected == word[..., -width:]).all(axis=-1))
