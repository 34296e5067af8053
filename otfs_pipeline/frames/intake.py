"""Samples of a waveform as they come to complex64 in the front end's memory, in one pass."""

from __future__ import annotations

import numpy as np

from foundryrt.native import front_core
from otfs_pipeline.frames.samples import DATATYPES, decode, width

# Squares of larger samples are no float32.
_LARGEST = 1e15


def undecoded(data: bytes | memoryview, datatype: str) -> np.ndarray:
    """Samples of a waveform, for `take`: [S] complex64, or components [S, 2] where it decodes them.

    Not copied then. Without a partial last one.
    """
    component = DATATYPES[datatype]
    if component.kind == "f" or component not in front_core.FORMATS:
        return decode(data, datatype)
    whole = len(data) // width(datatype)
    return np.frombuffer(data, component, 2 * whole).reshape(-1, 2)


def take(
    samples: np.ndarray, to: np.ndarray, streamed: bool = False, threads: int = 1
) -> list[list[int]]:
    """Put samples, as `undecoded` gives them, to `to`, complex64 as `Settings.stream_shape`.

    Zeros stand for those that are no numbers, or over 1e15. Gives where such begin and end, at any
    antenna. `streamed`: past the processor's caches.
    """
    samples = np.ascontiguousarray(samples)
    parts = samples.view(np.float32) if samples.dtype == np.complex64 else samples
    if front_core.intake(parts, _LARGEST / 2, to, streamed, threads=threads):
        return []
    with np.errstate(invalid="ignore"):
        good = np.abs(to) < _LARGEST
    to[~good] = 0
    good = good.reshape(len(to), -1).all(axis=1)
    return np.flatnonzero(np.diff(good, prepend=True, append=True)).reshape(-1, 2).tolist()
