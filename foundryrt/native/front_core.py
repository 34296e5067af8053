"""Binding of what the receiver's source does to samples: taken in, and searched for a sequence."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import FoundryError
from foundryrt.native.core import load_core
from foundryrt.parallel import available_threads

_PATH = Path(__file__).parent / "libfoundryhost.so"
FORMATS = tuple(map(np.dtype, ("<f4", "<i2", "i1", "u1")))
"""Components of samples that `intake` takes, as zak/kernels.hpp numbers them."""
_CODES = {dtype: code for code, dtype in enumerate(FORMATS)}
# Threads that share short tasks look for the next one. They need processors that the threads of a
# run, of which two poll, leave idle.
_MOST_AWAKE, _POLLING = 4, 2
_NO_MEMORY = -2
# Vectors of the memory begin on a cache line.
_LINE = 16


@cache
def _library() -> ctypes.CDLL:
    library = load_core(_PATH)
    library.foundry_zak_correlation_floats.argtypes = (c_int, c_int64, c_int64)
    library.foundry_zak_correlation_floats.restype = c_int64
    library.foundry_zak_correlation_prepare.argtypes = (
        c_int, c_void_p, c_int64, c_int64, c_void_p,
    )  # fmt: skip
    library.foundry_zak_correlation_find.argtypes = (
        c_int, c_int, c_int, c_int64, c_int64, c_void_p, c_void_p, c_int64, c_double,
    )  # fmt: skip
    library.foundry_zak_correlation_find.restype = c_int64
    library.foundry_zak_intake.argtypes = (
        c_int, c_int, c_int, c_int64, c_void_p, c_int64, c_float, c_int, c_void_p,
    )  # fmt: skip
    return library


def awake_threads() -> int:
    """How many threads may share tasks of some microseconds in this process."""
    return max(1, min(_MOST_AWAKE, (available_threads() - _POLLING) // 2))


class Correlator:
    """Finds a sequence, [size] complex64, among samples by its share of their energy.

    Its memory and time a place are best for about so many `places`; more are searched on up to
    `threads`, no more than these on up to `awake`, which are those of `intake`. `lanes` chooses an
    instruction set (`zak_core.lanes`). FoundryError for one that there is none of, MemoryError
    without memory.
    """

    def __init__(
        self,
        sequence: NDArray[np.complex64],
        places: int,
        lanes: int = 0,
        threads: int = 1,
        awake: int = 1,
    ) -> None:
        sequence = np.ascontiguousarray(sequence, np.complex64)
        self._size, self._places = sequence.size, places
        self._lanes, self._threads, self._awake = lanes, threads, awake
        floats = _library().foundry_zak_correlation_floats(lanes, sequence.size, places)
        if not floats:
            raise FoundryError(f"no correlation of {sequence.size} samples with {lanes} lanes")
        memory = np.empty(floats + _LINE, np.float32)
        self._memory = memory[-(memory.ctypes.data // 4) % _LINE :]
        self._at = self._memory.ctypes.data
        if _library().foundry_zak_correlation_prepare(
            lanes, sequence.ctypes.data, sequence.size, places, self._at
        ):
            raise MemoryError(f"a search for {sequence.size} samples")

    def find(self, samples: NDArray[np.complex64], threshold: float) -> int | None:
        """Where the sequence most likely begins; None where its share is below `threshold`.

        `samples` holds the places to look at and a sequence more, [places + size - 1], contiguous.
        The share is |Σ s* x|² / Σ |x|², of a sequence s with unit energy 0 to 1.
        """
        places = samples.size - self._size + 1
        if places < 1:
            return None
        found = _library().foundry_zak_correlation_find(
            self._lanes, self._threads, self._awake, self._size, self._places, self._at,
            samples.ctypes.data, places, threshold,
        )  # fmt: skip
        if found == _NO_MEMORY:
            raise MemoryError(f"a search at {places} places")
        return None if found < 0 else int(found)


def intake(
    parts: NDArray[np.generic],
    limit: float,
    to: NDArray[np.complex64],
    streamed: bool = False,
    lanes: int = 0,
    threads: int = 1,
) -> bool:
    """Interleaved parts [2 S] of one of FORMATS, contiguous, to samples `to` [S], contiguous.

    Integers are scaled to -1 to 1, and the middle of an unsigned range is 0. Gives whether the
    magnitudes of all parts are below `limit`, which NaN is not.
    `streamed`: they are written past the caches, for a device that reads them, or nobody for long.
    Up to `threads` share the work; they sleep when nothing has come for 0.3 ms. FoundryError for
    `lanes` that there are none of.
    """
    if not to.size:
        return True
    code = _library().foundry_zak_intake(
        lanes, threads, _CODES[parts.dtype], parts.itemsize, _address(parts), 2 * to.size, limit,
        streamed, _address(to),
    )  # fmt: skip
    if code < 0:
        raise FoundryError(f"no intake of samples with {lanes} lanes")
    return bool(code)


def _address(values: NDArray[np.generic]) -> int:
    # A quarter of the time of `ctypes.data`, of which there are two for each piece of a slot.
    if values.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(values))  # type: ignore[arg-type]
    return values.ctypes.data
