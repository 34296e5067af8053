"""Transmitter: payload bits to a frame's time samples."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.coding.encode import encode
from otfs_pipeline.link import frame, qam, zak
from otfs_pipeline.settings import Settings


def payload(seed: int, index: int, settings: Settings) -> np.ndarray:
    """The test payload of frame `index` of a run, uint8 [bits]; the same on every machine."""
    rng = np.random.default_rng([seed, index, 0])
    return rng.integers(0, 2, frame.payload_bits(settings), dtype=np.uint8)


def coded(bits: np.ndarray, settings: Settings) -> np.ndarray:
    """Payload [frame.payload_bits] to the bits that are sent, uint8 [frame.coded_bits]."""
    block = settings.transport_block
    return encode(bits, block) if block else bits


def transmit(bits: np.ndarray, settings: Settings) -> np.ndarray:
    """Payload [frame.payload_bits] to one frame of time samples [MN], complex128."""
    return modulate(coded(bits, settings), settings)


def modulate(bits: np.ndarray, settings: Settings) -> np.ndarray:
    """Bits as they are sent [frame.coded_bits] to one frame of time samples [MN], complex128."""
    symbols = qam.modulate(bits.reshape(-1, settings.bits_per_symbol), settings.modulation)
    return zak.inverse_zak(frame.assemble(symbols, settings))
