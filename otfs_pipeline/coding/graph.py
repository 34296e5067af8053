"""Base graphs of the NR LDPC code and their lifting (3GPP TS 38.212, 5.3.2).

An entry of a base graph stands for a circulant permutation of Z_c bits: with a shift s, check k of
the row's Z_c checks has bit (k + s) mod Z_c of the column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Sets of lifting sizes by their set index i_LS (table 5.3.2-1): a·2^j up to 384.
_SET_FACTORS = (2, 3, 5, 7, 9, 11, 13, 15)
LARGEST_LIFTING = 384
# Of the first columns, so many are never sent.
PUNCTURED_COLUMNS = 2
# The rows whose parity columns are solved together; each later row has a parity column of its own.
CORE_ROWS = 4


@dataclass(frozen=True)
class Entry:
    """A circulant of a lifted base graph."""

    column: int
    shift: int


@dataclass(frozen=True)
class LiftedGraph:
    """A base graph with lifting size `lifting` (Z_c): the entries of each row, columns rising.

    `information_columns` hold the message with its filler bits; the others, one a row, are parity.
    """

    number: int
    lifting: int
    rows: tuple[tuple[Entry, ...], ...]
    information_columns: int

    @property
    def columns(self) -> int:
        return self.information_columns + len(self.rows)


def lifting_sizes() -> dict[int, int]:
    """All lifting sizes, rising, with their set indices."""
    sizes = {
        factor << power: index
        for index, factor in enumerate(_SET_FACTORS)
        for power in range(9)
        if factor << power <= LARGEST_LIFTING
    }
    return dict(sorted(sizes.items()))


@cache
def lifted(number: int, lifting: int) -> LiftedGraph:
    """Base graph 1 or 2 with one of `lifting_sizes`; ValueError for others."""
    if number not in (1, 2) or lifting not in lifting_sizes():
        raise ValueError(f"lifted: base graph {number}, lifting size {lifting}; there is none")
    index = lifting_sizes()[lifting]
    rows: dict[int, list[Entry]] = {}
    for graph, row, column, *shifts in _tables():
        if graph == number:
            rows.setdefault(row, []).append(Entry(column, shifts[index] % lifting))
    ordered = tuple(tuple(rows[row]) for row in sorted(rows))
    return LiftedGraph(number, lifting, ordered, 22 if number == 1 else 10)


@cache
def _tables() -> tuple[tuple[int, ...], ...]:
    """Lines of base_graphs.txt: graph, row, column, and a shift for each set index."""
    text = (Path(__file__).parent / "base_graphs.txt").read_text(encoding="ascii")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(tuple(map(int, line.split())) for line in lines)
