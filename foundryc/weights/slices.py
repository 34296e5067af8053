"""Weight slices: which rows and columns of stored tensors fill a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from foundryc.weights.files import StoredTensor
from foundryrt import convert
from foundryrt.bundle.schema import DTYPES, WeightCopy

_BLOCK = 8 << 20  # bytes of a source


@dataclass(frozen=True)
class WeightSlice:
    """Rows of a stored tensor that fill rows of a parameter, both seen as 2-D."""

    stored: StoredTensor
    rows: int
    columns: int
    source_row: int = 0
    source_row_step: int = 1
    source_column: int = 0
    row: int = 0
    row_step: int = 1
    column: int = 0

    def copy(self, source: int) -> WeightCopy:
        """The manifest's form, with `source` as the index of the stored tensor."""
        return WeightCopy(
            source=source, rows=self.rows, columns=self.columns,
            source_row=self.source_row, source_row_step=self.source_row_step,
            source_column=self.source_column,
            row=self.row, row_step=self.row_step, column=self.column,
        )  # fmt: skip


def whole(stored: StoredTensor) -> list[WeightSlice]:
    """The recipe of a parameter that is one stored tensor as it is."""
    return [WeightSlice(stored, stored.rows, stored.columns)]


def materialize(
    slices: Iterable[WeightSlice], shape: Sequence[int], dtype: str
) -> convert.AnyArray:
    """A parameter from its slices, as the runtime will fill it: `shape`, `storage_dtype(dtype)`."""
    target = np.zeros((prod(shape[:-1]), shape[-1]), convert.storage_dtype(dtype))
    decoded: dict[StoredTensor, convert.AnyArray] = {}
    for part in slices:
        stored = part.stored
        if stored not in decoded:
            decoded[stored] = convert.decode(
                stored.data(), stored.dtype, stored.rows, stored.columns, dtype
            )
        convert.copy_rows(part.copy(0), decoded[stored], target)
    return target.reshape(tuple(shape))


def in_blocks(part: WeightSlice) -> list[WeightSlice]:
    """A slice of a large stored tensor as slices of its blocks of rows, each a source of its own.

    A digest is taken by one thread from beginning to end, so a load would wait for large sources.
    """
    stored = part.stored
    plain = stored.dtype in DTYPES and part.source_row_step == part.row_step == 1
    if not plain or stored.length <= _BLOCK:
        return [part]
    row_bytes = stored.length // stored.rows
    height = max(1, _BLOCK // row_bytes)
    blocks = []
    end = part.source_row + part.rows
    for start in range(part.source_row // height * height, end, height):
        rows = min(height, stored.rows - start)
        block = replace(
            stored,
            name=f"{stored.name}[{start}:{start + rows}]",
            shape=(rows, stored.columns),
            offset=stored.offset + start * row_bytes,
            length=rows * row_bytes,
        )
        first, last = max(start, part.source_row), min(start + rows, end)
        blocks.append(
            replace(
                part,
                stored=block,
                rows=last - first,
                source_row=first - start,
                row=part.row + first - part.source_row,
            )
        )
    return blocks
