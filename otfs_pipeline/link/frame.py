"""A frame in the delay-Doppler domain: the pilot in its guard strip, data around it."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.link.pilot import pilot_strip
from otfs_pipeline.settings import Settings


def guard_rows(settings: Settings) -> slice:
    """Delay bins of the guard strip, which spans all Dopplers."""
    first = settings.pilot_bin[0] - settings.guard_bins // 2
    return slice(first, first + settings.guard_bins)


def data_mask(settings: Settings) -> np.ndarray:
    """True where a bin carries data, bool [M, N]."""
    mask = np.ones((settings.m, settings.n), dtype=bool)
    mask[guard_rows(settings)] = False
    return mask


def solved_periods(settings: Settings) -> int:
    """Doppler periods of the frame that is equalized: N, with a prefix 2N (see prefix.py)."""
    return 2 * settings.n if settings.waveform == "cp" else settings.n


def data_periods(settings: Settings) -> np.ndarray:
    """Of these, counted from strip to strip, those that hold data in order of time: int64 [N]."""
    if settings.waveform == "cp":
        return np.arange(-1, settings.n - 1) % (2 * settings.n)
    return np.arange(settings.n)


def data_symbols(settings: Settings) -> int:
    """Data symbols of a frame."""
    return (settings.m - settings.guard_bins) * settings.n


def coded_bits(settings: Settings) -> int:
    """Bits that the data symbols of a frame carry."""
    return data_symbols(settings) * settings.bits_per_symbol


def payload_bits(settings: Settings) -> int:
    """Payload of a frame in bits: all that its symbols carry unless it is coded."""
    block = settings.transport_block
    return block.payload_bits if block else coded_bits(settings)


def pilot_grid(settings: Settings) -> np.ndarray:
    """The pilot alone, complex128 [M, N]."""
    grid = np.zeros((settings.m, settings.n), dtype=np.complex128)
    grid[guard_rows(settings), settings.pilot_bin[1]] = pilot_strip(settings)
    return grid


def assemble(symbols: np.ndarray, settings: Settings) -> np.ndarray:
    """Data symbols [D], delay-major, to a grid [M, N] with pilot; ValueError on a wrong length."""
    if symbols.shape != (data_symbols(settings),):
        raise ValueError(f"assemble: {symbols.shape} symbols, need ({data_symbols(settings)},)")
    grid = pilot_grid(settings)
    grid[data_mask(settings)] = symbols
    return grid


def extract(grid: np.ndarray, settings: Settings) -> np.ndarray:
    """The data bins of a grid [M, N] in the order of `assemble`, [D]."""
    symbols: np.ndarray = grid[data_mask(settings)]
    return symbols
