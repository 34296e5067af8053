"""Sample formats of recordings and messages, named as SigMF names them."""

from __future__ import annotations

import numpy as np

# SigMF datatype -> numpy type of a component, and its full scale.
DATATYPES = {"cf32_le": ("<f4", 1.0), "ci16_le": ("<i2", 32767.0)}


def width(datatype: str) -> int:
    """Bytes of a complex sample."""
    return 2 * np.dtype(DATATYPES[datatype][0]).itemsize


def decode(data: bytes | memoryview, datatype: str) -> np.ndarray:
    """Interleaved samples to complex64, without a partial last one; cf32_le is not copied."""
    component, scale = DATATYPES[datatype]
    whole = len(data) // width(datatype) * width(datatype)
    raw = np.frombuffer(data[:whole], dtype=component)
    if raw.dtype != np.float32:
        raw = np.multiply(raw, np.float32(1 / scale), dtype=np.float32)
    return raw.view(np.complex64)


def encode(samples: np.ndarray, datatype: str, gain: float = 1.0) -> bytes:
    """Complex samples, times `gain`, as interleaved bytes; integers are rounded and clipped."""
    component, scale = DATATYPES[datatype]
    parts = np.ascontiguousarray(samples, np.complex64).view(np.float32)
    if np.dtype(component).kind == "i":
        parts = np.clip(np.round(parts * (gain * scale)), -scale, scale)
    elif gain != 1:
        parts = parts * np.float32(gain)
    return parts.astype(component).tobytes()
