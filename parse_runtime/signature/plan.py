"""Rows of a pass as integers: what each row is, where it is kept, and what it may read.

Rows of a slot: [0, max_len) the sequence, max_len a row for padding, then, from a row that sizes
say (`parse_runtime.signature.sizes`), scratch rows for the judge's suffixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Plan = NDArray[np.int64]
"""[5, T]: tokens, positions, rows, cuts, starts (`parse_runtime.models.decoder.Rows`)."""

ALIGNMENT = 32
"""Each prompt, or draft, of a pass begins at a multiple of so many rows: graphs know it."""


class Judged(NamedTuple):
    """What `verification_plan` is given of a verification."""

    shared_prefix: Sequence[int]
    start: int
    suffix: Sequence[int]
    cuts: Sequence[int]

    @property
    def rows(self) -> int:
        return verified(len(self.shared_prefix), self.suffix) + len(self.cuts) * len(self.suffix)


def verified(count: int, suffix: Sequence[int]) -> int:
    """How many of so many tokens of a shared prefix have rows.

    Without a suffix nothing reads the last one's: evidence of it is in the row before, and the
    target goes on by computing it.
    """
    return count if suffix else max(count - 1, 0)


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


def packed(
    chunks: Sequence[tuple[Sequence[int], int]], length: int, max_len: int
) -> tuple[Plan, NDArray[np.int64]]:
    """Tokens that continue several sequences, each given with its length so far, in `length` rows.

    Each chunk begins at a multiple of ALIGNMENT. Returns the plan, and the first and last rows of
    the chunks, int64 [2, chunks].
    """
    plan, places, row = padded(length, max_len), [], 0
    for tokens, start in chunks:
        end = row + len(tokens)
        plan[:, row:end] = causal(tokens, start, len(tokens), max_len)
        places.append((row, end - 1))
        row = -(-end // ALIGNMENT) * ALIGNMENT
    return plan, np.asarray(places, np.int64).T


def padded_scored(count: int, cuts: int, max_len: int) -> NDArray[np.int64]:
    """The `scored` of a verify pass of `cuts` cuts: `count` tokens that belong to none of them."""
    scored = np.zeros((4, count), np.int64)
    scored[2], scored[3] = cuts, max_len
    return scored


def scored_tokens(
    tokens: Sequence[int], start: int, drafted: int, cuts: Sequence[int], padding: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The `scored` of a pass whose rows begin with `tokens` at position `start`.

    Tokens from position `drafted` on count, as far as the row before them is in the pass. Those
    behind the last of `cuts` belong to no cut; where there are no cuts, all belong to the first.
    """
    scored = padding.copy()
    first = max(drafted - start, 1)
    count = max(len(tokens) - first, 0)
    rows = np.arange(first, first + count)
    scored[0, :count] = rows - 1
    scored[1, :count] = tokens[first:]
    # The token at position c - 1 is the last one of the cut at length c.
    ends = np.searchsorted(np.asarray(cuts, np.int64), start + rows + 1)
    scored[2, :count] = np.where(ends < max(len(cuts), 1), ends, padding[2, 0])
    scored[3, :count] = start + rows - 1
    return scored


def verification_plan(
    shared_prefix: Sequence[int],
    start: int,
    suffix: Sequence[int],
    cuts: Sequence[int],
    length: int,
    max_len: int,
    scratch: int,
) -> tuple[Plan, NDArray[np.int64]]:
    """The one-pass verification of prefixes, padded to `length` rows.

    `shared_prefix` continues a sequence of `start` tokens. Each cut is a sequence length, at most
    `start + len(shared_prefix)`; its suffix takes the positions after it, reads the sequence below
    it and itself, and is kept in rows from `scratch` on. Returns the plan and the index of each
    suffix's last row; of an empty suffix, that of some row.
    """
    size, row = len(suffix), verified(len(shared_prefix), suffix)
    plan = causal(shared_prefix[:row], start, length, max_len)
    if row < min(len(shared_prefix), length):
        plan[0, row] = shared_prefix[row]  # of padding, but an EAGLE-3 head reads what follows
    ends = []
    for i, cut in enumerate(cuts):
        here = slice(row, row + size)
        own = scratch + i * size
        plan[0, here] = suffix
        plan[1, here] = np.arange(cut, cut + size)
        plan[2, here] = np.arange(own, own + size)
        plan[3, here] = cut
        plan[4, here] = own
        row += size
        ends.append(max(row - 1, 0))
    return plan, np.asarray(ends, np.int64)


def packed_verifications(
    judged: Sequence[Judged], length: int, max_len: int, scratch: int
) -> tuple[Plan, list[int], list[NDArray[np.int64]]]:
    """Verifications of different slots in one plan of `length` rows.

    Each begins at a multiple of ALIGNMENT, and its suffixes are kept as far behind `scratch`.
    Padding reads nothing: so no row's tile of attention depends on where its verification begins.
    Returns the plan, the first row of each, and the last rows of its suffixes.
    """
    plan, row = padded(length, max_len), 0
    plan[4] = scratch + length
    begins, ends = [], []
    for one in judged:
        here, last = verification_plan(*one, one.rows, max_len, scratch + row)
        plan[:, row : row + one.rows] = here
        begins.append(row)
        ends.append(row + last)
        row += -(-one.rows // ALIGNMENT) * ALIGNMENT
    return plan, begins, ends
