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
def words(name: str, count: int) -> np.ndarray:
    """x^(count-1-i) mod the generator for each i, highest power first, as words; uint32 [count].

    The remainder of a word of `count` bits is the sum over GF(2) of those where it has ones.
    """
    width = length(name)
    low = sum(1 << exponent for exponent in _EXPONENTS[name][1:])
    values = np.empty(count, np.uint32)
    value = 1
    for index in range(count - 1, -1, -1):
        values[index] = value
        value <<= 1
        if value >> width:
            value = (value ^ low) & ((1 << width) - 1)
    values.flags.writeable = False
    return values


def as_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Remainders as words [...] to bits, highest power first, uint8 [..., check bits]."""
    shifts = np.arange(length(name) - 1, -1, -1)
    return ((values[..., None].astype(np.int64) >> shifts) & 1).astype(np.uint8)


def check_bits(name: str, bits: np.ndarray) -> np.ndarray:
    """The CRC's parity bits of words [..., count] of 0 or 1, uint8 [..., check bits]."""
    count = bits.shape[-1]
    each = words(name, count + length(name))[:count]
    remainder = np.bitwise_xor.reduce(np.where(bits != 0, each, np.uint32(0)), axis=-1)
    return as_bits(np.asarray(remainder), name)


def passes(name: str, word: np.ndarray) -> np.ndarray:
    """Whether words [..., count] that end in their check bits have remainder 0, bool [...]."""
    width = length(name)
    expected = check_bits(name, word[..., :-width])
    return np.asarray((expected == word[..., -width:]).all(axis=-1))
