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
    """Rows of a stored tensor that fill rows of a parameter, both seen as 2-D.

    Row i of `rows` is row `source_row + i * source_row_step` of the stored tensor, and becomes row
    `row + i * row_step` of the parameter: `columns` elements, from `source_column` to `column`. The
    type is converted where the two differ.
    """

    stored: StoredTensor
    rows: int
    columns: int
    source_row: int = 0
    source_row_step: int = 1
    source_column: int = 0
    row: int = 0
    row_step: int = 1
    column: int = 0
    rank: int = -1
    """Whose parameter it fills; -1 for that of every rank."""

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


def cut(
    slices: Iterable[WeightSlice], rows: range, columns: range, row: int = 0, column: int = 0
) -> list[WeightSlice]:
    """What fills `rows` and `columns` of the parameter that `slices` fill, both of step 1.

    In another parameter, where this rectangle begins at `row` and `column`.
    """
    found = []
    for part in slices:
        first, end = (
            min(max(0, -((part.row - edge) // part.row_step)), part.rows)
            for edge in (rows.start, rows.stop)
        )
        left = max(part.column, columns.start)
        right = min(part.column + part.columns, columns.stop)
        if first < end and left < right:
            found.append(
                replace(
                    part,
                    rows=end - first,
                    columns=right - left,
                    source_row=part.source_row + first * part.source_row_step,
                    source_column=part.source_column + left - part.column,
                    row=row + part.row + first * part.row_step - rows.start,
                    column=column + left - columns.start,
                )
            )
    return found


def materialize(
    slices: Iterable[WeightSlice], shape: Sequence[int], dtype: str, rank: int = 0
) -> convert.AnyArray:
    """A parameter from its slices, as the runtime will fill it: `shape`, `storage_dtype(dtype)`.

    Where slices are of ranks, it is the parameter of `rank`.
    """
    target = np.zeros((prod(shape[:-1]), shape[-1]), convert.storage_dtype(dtype))
    decoded: dict[StoredTensor, convert.AnyArray] = {}
    for part in slices:
        if part.rank not in (-1, rank):
            continue
        stored = part.stored
        if stored not in decoded:
            decoded[stored] = convert.decode(
                stored.data(), stored.dtype, stored.rows, stored.columns, dtype
            )
        convert.copy_rows(part.copy(0), decoded[stored], target)
    return target.reshape(tuple(shape))


def reached(slices: Sequence[WeightSlice]) -> list[WeightSlice]:
    """The same slices of stored tensors that are cut down to the rows from first to last slice.

    A rank reads those rows of a tensor alone, and takes the digest of no others. Of columns, which
    lie in every row, a digest is of whole rows.
    """
    ends: dict[StoredTensor, tuple[int, int]] = {}
    for part in slices:
        last = part.source_row + (part.rows - 1) * part.source_row_step
        first, end = ends.get(part.stored, (part.source_row, 0))
        ends[part.stored] = min(first, part.source_row), max(end, last + 1)
    found = []
    for part in slices:
        first, end = ends[part.stored]
        if end - first < part.stored.rows:
            stored = _rows(part.stored, first, end - first)
            part = replace(part, stored=stored, source_row=part.source_row - first)
        found.append(part)
    return found


def in_blocks(part: WeightSlice) -> list[WeightSlice]:
    """A slice of a large stored tensor as slices of its blocks of rows, each a source of its own.

    A digest is taken by one thread from beginning to end, so a load would wait for large sources.
    """
    stored = part.stored
    plain = stored.dtype in DTYPES and part.source_row_step == part.row_step == 1
    if not plain or stored.length <= _BLOCK:
        return [part]
    height = max(1, _BLOCK // (stored.length // stored.rows))
    blocks = []
    end = part.source_row + part.rows
    for start in range(part.source_row // height * height, end, height):
        rows = min(height, stored.rows - start)
        first, last = max(start, part.source_row), min(start + rows, end)
        blocks.append(
            replace(
                part,
                stored=_rows(stored, start, rows),
                rows=last - first,
                source_row=first - start,
                row=part.row + first - part.source_row,
            )
        )
    return blocks


def _rows(stored: StoredTensor, first: int, rows: int) -> StoredTensor:
    """Rows of a stored tensor as one of its own; also of a quantized one, whose rows are blocks."""
    row = stored.length // stored.rows
    return replace(
        stored,
        name=f"{stored.name}[{first}:{first + rows}]",
        shape=(rows, stored.columns),
        offset=stored.offset + first * row,
        length=rows * row,
    )
