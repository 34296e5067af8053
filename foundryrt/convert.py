"""Stored tensors as arrays: dequantized, converted, their rows put where a recipe wants them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import numpy.typing as npt

from foundryrt.bundle.schema import (
    DTYPES,
    SEEN_AS,
    Manifest,
    WeightCopy,
    WeightRecipe,
    WeightSource,
)
from foundryrt.errors import FoundryError

AnyArray = npt.NDArray[np.generic]


def storage_dtype(dtype: str) -> np.dtype[np.generic]:
    """The numpy dtype that holds `dtype`; types unknown to numpy are held as their bits."""
    return np.dtype(SEEN_AS.get(dtype, dtype))


def decode(data: memoryview, source_dtype: str, rows: int, columns: int, dtype: str) -> AnyArray:
    """A stored tensor as [rows, columns] in `dtype` (held as `storage_dtype(dtype)`).

    GGUF quantizations are dequantized; float types are converted, rounding to nearest even.
    FoundryError for a conversion that would not be exact in meaning (float to integer).
    """
    if source_dtype == dtype:
        return np.frombuffer(data, storage_dtype(dtype)).reshape(rows, columns)
    floats = {"float16", "bfloat16", "float32", "float64"}
    if dtype not in floats or (source_dtype in DTYPES and source_dtype not in floats):
        raise FoundryError(f"weights stored as {source_dtype} cannot fill a tensor of {dtype}")
    values = _to_float(data, source_dtype).reshape(rows, columns)
    return _to_bfloat16(values) if dtype == "bfloat16" else values.astype(storage_dtype(dtype))


def _to_float(data: memoryview, dtype: str) -> AnyArray:
    if dtype == "bfloat16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype in DTYPES:
        return np.frombuffer(data, storage_dtype(dtype))
    gguf = _gguf(dtype)
    try:
        kind = gguf.GGMLQuantizationType[dtype]
        values: AnyArray = gguf.dequantize(np.frombuffer(data, np.uint8), kind)
    except (NotImplementedError, KeyError, ValueError):
        raise _unknown(dtype) from None
    return values


def _gguf(dtype: str) -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise FoundryError(
            f"weights are stored as GGUF {dtype}: pip install gguf to read them"
        ) from None
    return gguf


def _unknown(dtype: str) -> FoundryError:
    return FoundryError(f"GGUF quantization {dtype} cannot be read by gguf")


def _to_bfloat16(values: AnyArray) -> AnyArray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # Rounding must not turn a NaN into an infinity.
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def copy_rows(copy: WeightCopy, source: AnyArray, target: AnyArray, first: int = 0) -> None:
    """One copy of a recipe; both arrays are 2-D, their bounds were checked with the manifest.

    `first` is the source's column that the array begins with.
    """
    taken = source[copy.source_row :: copy.source_row_step][: copy.rows]
    column = copy.source_column - first
    columns = slice(column, column + copy.columns)
    rows = target[copy.row :: copy.row_step][: copy.rows]
    rows[:, copy.column : copy.column + copy.columns] = taken[:, columns]


def decode_source(source: WeightSource, data: memoryview, dtype: str) -> AnyArray:
    """`decode` of a source's bytes."""
    return decode(data, source.dtype, source.rows, source.columns, dtype)


def decode_columns(
    source: WeightSource, data: memoryview, dtype: str, columns: range
) -> tuple[AnyArray, int]:
    """`decode` of these columns of a source, and the number of the first: no others are read.

    But for those that share a quantized block with them.
    """
    if source.dtype == dtype:
        return decode_source(source, data, dtype), 0  # a view: nothing has been read
    elements, size = _block(source.dtype)
    first, last = columns.start // elements, -(-columns.stop // elements)
    whole_blocks = len(data) == source.rows * (source.columns // elements) * size
    if (last - first) * elements >= source.columns or not whole_blocks:
        return decode_source(source, data, dtype), 0
    rows = np.frombuffer(data, np.uint8).reshape(source.rows, -1)
    part = np.ascontiguousarray(rows[:, first * size : last * size]).reshape(-1).data
    wide = (last - first) * elements
    return decode(part, source.dtype, source.rows, wide, dtype), first * elements


def _block(dtype: str) -> tuple[int, int]:
    """Elements of a row that can be decoded by themselves, and their bytes."""
    if dtype in DTYPES:
        return 1, DTYPES[dtype]
    gguf = _gguf(dtype)
    try:
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    except KeyError:
        raise _unknown(dtype) from None
    return int(elements), int(size)


def fill(
    manifest: Manifest,
    recipe: WeightRecipe,
    target: AnyArray,
    values: Callable[[int, str, range], tuple[AnyArray, int]],
) -> None:
    """A whole tensor, `target` as [rows, columns], by its recipe.

    `values(i, dtype, columns)` gives columns of source i as `decode_columns` does, or more of them;
    each source is asked for once.
    """
    dtype = manifest.tensors[recipe.tensor].dtype
    wanted: dict[int, range] = {}
    for copy in recipe.copies:
        end = copy.source_column + copy.columns
        known = wanted.get(copy.source, range(copy.source_column, end))
        wanted[copy.source] = range(min(known.start, copy.source_column), max(known.stop, end))
    found: dict[int, tuple[AnyArray, int]] = {}
    for copy in recipe.copies:
        if copy.source not in found:
            found[copy.source] = values(copy.source, dtype, wanted[copy.source])
        array, first = found[copy.source]
        copy_rows(copy, array, target, first)
