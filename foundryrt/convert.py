"""Stored tensors as arrays: dequantized, converted, their rows put where a recipe wants them."""

from __future__ import annotations

from collections.abc import Callable

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
    try:
        import gguf
    except ImportError:
        raise FoundryError(
            f"weights are stored as GGUF {dtype}: pip install gguf to read them"
        ) from None
    try:
        kind = gguf.GGMLQuantizationType[dtype]
        values: AnyArray = gguf.dequantize(np.frombuffer(data, np.uint8), kind)
    except (NotImplementedError, KeyError, ValueError):
        raise FoundryError(f"GGUF quantization {dtype} cannot be read by gguf") from None
    return values


def _to_bfloat16(values: AnyArray) -> AnyArray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # Rounding must not turn a NaN into an infinity.
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def copy_rows(copy: WeightCopy, source: AnyArray, target: AnyArray) -> None:
    """One copy of a recipe; both arrays are 2-D, their bounds were checked with the manifest."""
    taken = source[copy.source_row :: copy.source_row_step][: copy.rows]
    columns = slice(copy.source_column, copy.source_column + copy.columns)
    rows = target[copy.row :: copy.row_step][: copy.rows]
    rows[:, copy.column : copy.column + copy.columns] = taken[:, columns]


def decode_source(source: WeightSource, data: memoryview, dtype: str) -> AnyArray:
    """`decode` of a source's bytes."""
    return decode(data, source.dtype, source.rows, source.columns, dtype)


def fill(
    manifest: Manifest,
    recipe: WeightRecipe,
    target: AnyArray,
    data: Callable[[int], memoryview],
    decoder: Callable[[WeightSource, memoryview, str], AnyArray] = decode_source,
) -> None:
    """A whole tensor, `target` as [rows, columns], by its recipe; `data(i)` is source i, once each.

    `decoder` is given a source, its bytes and the tensor's dtype. Errors are those of `decode`.
    """
    dtype = manifest.tensors[recipe.tensor].dtype
    decoded: dict[int, AnyArray] = {}
    for copy in recipe.copies:
        if copy.source not in decoded:
            source = manifest.weights.sources[copy.source]
            decoded[copy.source] = decoder(source, data(copy.source), dtype)
        copy_rows(copy, decoded[copy.source], target)
