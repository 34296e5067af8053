"""Which stored tensors a parameter is made of, found by name or by what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np

from foundryc.weights.files import StoredTensor
from foundryc.weights.slices import WeightSlice, whole
from foundryrt import convert
from foundryrt.bundle.schema import DTYPES

_FLOATS = {"float16", "bfloat16", "float32", "float64"}


class StoredParts:
    """Finds recipes for parameters in `stored`, the tensors of safetensors files.

    A recipe is only given where filling the parameter by it gives its very bytes.
    """

    def __init__(self, stored: Iterable[StoredTensor]) -> None:
        self._stored = [t for t in stored if t.dtype in DTYPES and t.rows * t.columns]
        self._named = {tensor.name: tensor for tensor in self._stored}
        self._beginning: dict[str, dict[bytes, list[StoredTensor]]] = {}

    def recipe(
        self, name: str, shape: Sequence[int], dtype: str, values: convert.AnyArray
    ) -> list[WeightSlice]:
        """Slices that fill the parameter; none where the files do not hold what it holds.

        `values` are its elements, [prod(shape[:-1]), shape[-1]] in `storage_dtype(dtype)`. The
        stored tensor of its own name comes first; else stored tensors that make up its rows one
        after another, as of fused projections or stacked experts.
        """
        named = self._named.get(name)
        if named is not None and named.shape == tuple(shape) and _holds(named, values, dtype):
            return whole(named)
        slices: list[WeightSlice] = []
        row = 0
        while row < len(values):
            part = self._part(values[row:], dtype)
            if part is None:
                return []
            slices.append(WeightSlice(part, part.rows, part.columns, row=row))
            row += part.rows
        return slices

    def _part(self, values: convert.AnyArray, dtype: str) -> StoredTensor | None:
        """A stored tensor of all columns that `values` begin with."""
        for stored in self._by_first_row(dtype).get(values[0].tobytes(), ()):
            if stored.rows <= len(values) and _holds(stored, values[: stored.rows], dtype):
                return stored
        return None

    def _by_first_row(self, dtype: str) -> dict[bytes, list[StoredTensor]]:
        """Stored tensors by their first row's bytes in `dtype`; those of most rows come first."""
        if dtype not in self._beginning:
            found: dict[bytes, list[StoredTensor]] = {}
            for stored in sorted(self._convertible(dtype), key=lambda t: -t.rows):
                row = stored.data()[: stored.columns * DTYPES[stored.dtype]]
                first = convert.decode(row, stored.dtype, 1, stored.columns, dtype)
                found.setdefault(first.tobytes(), []).append(stored)
            self._beginning[dtype] = found
        return self._beginning[dtype]

    def _convertible(self, dtype: str) -> Iterator[StoredTensor]:
        return (t for t in self._stored if _converts(t.dtype, dtype))


def _converts(stored: str, dtype: str) -> bool:
    return stored == dtype or {stored, dtype} <= _FLOATS


def _holds(stored: StoredTensor, values: convert.AnyArray, dtype: str) -> bool:
    """Whether the stored tensor, in `dtype`, has the bytes of `values` [rows, columns]."""
    if not _converts(stored.dtype, dtype) or (stored.rows, stored.columns) != values.shape:
        return False
    decoded = convert.decode(stored.data(), stored.dtype, stored.rows, stored.columns, dtype)
    return np.array_equal(_bytes(decoded), _bytes(values))


def _bytes(values: convert.AnyArray) -> convert.AnyArray:
    return np.ascontiguousarray(values).reshape(prod(values.shape)).view(np.uint8)
