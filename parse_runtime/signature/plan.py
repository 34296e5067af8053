"""Rows of a pass as integers: what each row is, where it is kept, and what it may read.

Rows of a slot's cache: [0, max_len) the sequence, max_len a row for padding, then scratch rows
for the judge's suffixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Plan = NDArray[np.int64]
"""[5, T]: tokens, positions, rows, cuts, starts (`parse_runtime.models.decoder.Rows`)."""


def cache_rows(max_len: int, scratch: int) -> int:
    """Rows of a slot that holds a sequence of `max_len` and `scratch` rows of suffixes."""
    return max_len + 1 + scratch


def padded(length: int, max_len: int) -> Plan:
    """A plan of `length` rows that all write to the padding row and read nothing but it."""
    plan = np.zeros((5, length), np.int64)
    plan[2] = plan[4] = max_len
    return plan


def causal(tokens: Sequence[int], start: int, length: int, max_len: int) -> Plan:
    """Tokens that continue a sequence of `start` tokens, padded to `length` rows."""
    plan = padded(length, max_len)
    count = len(tokens)
    positions = np.arange(start, start + count)
    plan[0, :count] = tokens
    plan[1, :count] = positions
    plan[2, :count] = positions
    plan[3, :count] = positions + 1
    plan[4, :count] = positions
    return plan


def verification_plan(
    shared_prefix: Sequence[int],
    start: int,
    suffix: Sequence[int],
    cuts: Sequence[int],
    length: int,
    max_len: int,
) -> tuple[Plan, NDArray[np.int64]]:
    """The one-pass verification of prefixes, padded to `length` rows.

    `shared_prefix` continues a sequence of `start` tokens. Each cut is a sequence length, at most
    `start + len(shared_prefix)`; its suffix takes the positions after it, reads the sequence below
    it and itself. Returns the plan and the index of each suffix's last row.
    """
    plan = causal(shared_prefix, start, length, max_len)
    size, row = len(suffix), len(shared_prefix)
    ends = []
    for i, cut in enumerate(cuts):
        here = slice(row, row + size)
        own = max_len + 1 + i * size
        plan[0, here] = suffix
        plan[1, here] = np.arange(cut, cut + size)
        plan[2, here] = np.arange(own, own + size)
        plan[3, here] = cut
        plan[4, here] = own
        row += size
        ends.append(row - 1)
    return plan, np.asarray(ends, np.int64)
