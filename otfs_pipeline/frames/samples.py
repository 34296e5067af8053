"""Sample formats of recordings and messages, named as SigMF names them."""

from __future__ import annotations

import numpy as np

_KINDS = ("f32", "f64", "i32", "i16", "u32", "u16")
DATATYPES: dict[str, np.dtype[np.generic]] = {
    f"c{kind}_{order}": np.dtype(f"{sign}{kind[0]}{int(kind[1:]) // 8}")
    for kind in _KINDS
    for order, sign in (("le", "<"), ("be", ">"))
} | {"ci8": np.dtype("i1"), "cu8": np.dtype("u1")}
"""SigMF datatype of complex samples -> numpy type of a component."""


def width(datatype: str) -> int:
    """Bytes of a complex sample."""
    return 2 * DATATYPES[datatype].itemsize


def full_scale(datatype: str) -> float:
    """What 1.0 is in `datatype`: half the range of an integer, 1 for a float."""
    component = DATATYPES[datatype]
    return 1.0 if component.kind == "f" else 2.0 ** (8 * component.itemsize - 1)


def decode(data: bytes | memoryview, datatype: str) -> np.ndarray:
    """Interleaved samples to complex64, without a partial last one; cf32_le is not copied.

    Integers are scaled to -1 to 1; the middle of an unsigned range is 0.
    """
    component, scale = DATATYPES[datatype], full_scale(datatype)
    whole = len(data) // width(datatype) * width(datatype)
    raw = np.frombuffer(data[:whole], dtype=component)
    if component.kind == "u":
        raw = (raw - scale) / scale
    elif component.kind == "i":
        raw = np.multiply(raw, 1 / scale, dtype=np.float32 if scale < 2**24 else np.float64)
    with np.errstate(all="ignore"):  # a cf64 sample beyond complex64 is infinite, and counted
        return raw.astype("<f4", copy=False).view(np.complex64)


def by_antenna(samples: np.ndarray, antennas: int, interleaved: bool = False) -> np.ndarray:
    """Samples [length] of several antennas as [antennas, length / antennas]; of one as they are.

    They come antenna after antenna, or interleaved sample by sample; what does not fill a sample of
    each antenna stays [length], and is no frame.
    """
    if antennas == 1 or samples.size % antennas:
        return samples
    if interleaved:
        return np.ascontiguousarray(samples.reshape(-1, antennas).T)
    return samples.reshape(antennas, -1)


def encode(samples: np.ndarray, datatype: str, gain: float = 1.0) -> bytes:
    """Complex samples, times `gain`, as interleaved bytes; integers are rounded and clipped."""
    component, scale = DATATYPES[datatype], full_scale(datatype)
    parts = np.ascontiguousarray(samples, np.complex64).view(np.float32)
    if component.kind != "f":
        middle = scale if component.kind == "u" else 0.0
        parts = np.round(parts.astype(np.float64) * (gain * scale))
        parts = np.clip(parts, -scale, scale - 1) + middle
    elif gain != 1:
        parts = parts * np.float32(gain)
    return parts.astype(component).tobytes()
