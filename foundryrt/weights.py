"""Filling weight tensors from the user's files, as a bundle's recipes say."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from foundryrt.bundle.schema import DTYPES, Manifest, WeightCopy, WeightFile, WeightSource
from foundryrt.errors import FoundryError

AnyArray = npt.NDArray[np.generic]


class WeightsMissing(FoundryError):
    """A weight file is not where it was at capture, nor in the folder given."""


class WeightsChanged(FoundryError):
    """A weight file is not the one that the bundle was captured with."""


def storage_dtype(dtype: str) -> np.dtype[np.generic]:
    """The numpy dtype that holds `dtype`; types unknown to numpy are held as their bits."""
    bits = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
    return np.dtype(bits.get(dtype, dtype))


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
    except (NotImplementedError, KeyError):
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
    place = target[copy.row :: copy.row_step][: copy.rows]
    place[:, copy.column : copy.column + copy.columns] = taken[:, columns]


def find_file(file: WeightFile, folder: Path | None) -> Path:
    """Where a weight file is: in `folder` when given, else where it was at capture."""
    path = folder / file.name if folder else Path(file.hint)
    if not path.is_file():
        raise WeightsMissing(
            f"weights: {path} is not there; give the folder that holds {file.name} with --weights"
        )
    if path.stat().st_size != file.size:
        raise WeightsChanged(
            f"weights: {path} has {path.stat().st_size} bytes, the bundle was captured with "
            f"{file.size}; capture again, or give the original with --weights"
        )
    return path


def map_file(path: Path) -> memoryview:
    """The file's bytes, mapped."""
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise FoundryError(f"weights: {path} cannot be read: {error.strerror}") from error


class Hasher(Protocol):
    """What hashlib and blake3 offer alike."""

    def update(self, data: memoryview, /) -> object:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """The digest of what was taken in."""


def hasher(source: WeightSource) -> Hasher:
    """A hasher of the kind that the source's digest is of."""
    if not source.blake3:
        return hashlib.sha256()
    from blake3 import blake3

    return blake3()


def check_source(source: WeightSource, data: memoryview, path: Path) -> None:
    """WeightsChanged where the bytes of a source are not those of the capture."""
    taken = hasher(source)
    taken.update(data)
    check_digest(source, taken.digest(), path)


def check_digest(source: WeightSource, digest: bytes, path: Path) -> None:
    """WeightsChanged where a source's bytes have another digest than at capture."""
    if digest != source.digest:
        raise WeightsChanged(
            f"weights: {source.name!r} in {path} is not what the bundle was captured with; "
            "capture again, or give the original with --weights"
        )


def load(
    manifest: Manifest,
    target: Callable[[int], AnyArray],
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill every tensor that has a recipe.

    `target(i)` gives tensor i as a writable [rows, columns] array of its storage dtype. Each
    source's digest is checked before a byte of it is used; `progress` gets the bytes read.
    """
    weights = manifest.weights
    paths = [find_file(file, folder) for file in weights.files]
    files = [map_file(path) for path in paths]
    checked: set[int] = set()
    for recipe in weights.recipes:
        tensor = manifest.tensors[recipe.tensor]
        decoded: dict[int, AnyArray] = {}
        for copy in recipe.copies:
            source = weights.sources[copy.source]
            if copy.source not in decoded:
                data = files[source.file][source.offset : source.offset + source.length]
                if copy.source not in checked:
                    check_source(source, data, paths[source.file])
                    checked.add(copy.source)
                    if progress:
                        progress(source.length)
                decoded[copy.source] = decode(
                    data, source.dtype, source.rows, source.columns, tensor.dtype
                )
            copy_rows(copy, decoded[copy.source], target(recipe.tensor))
