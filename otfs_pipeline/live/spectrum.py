"""Power spectral density by averaged periodograms (Welch 1967), of samples in segments."""

from __future__ import annotations

import numpy as np


def segment_length(samples: int) -> int:
    """Samples a segment, a power of two: a sixteenth of a frame, 64 to 1024."""
    return 1 << max(6, min(10, (samples // 16).bit_length() - 1))


def segments(samples: np.ndarray, length: int, most: int) -> np.ndarray:
    """Up to `most` segments from all over the samples [..., S], copied.

    [..., P, length] complex64.
    """
    size = samples.shape[-1]
    begin = np.linspace(0, size - length, min(most, size // length)).astype(np.intp)
    windows = np.lib.stride_tricks.sliding_window_view(samples, length, axis=-1)
    return np.array(windows[..., begin, :], np.complex64)


def density(segments: np.ndarray, rate: float) -> np.ndarray:
    """Segments [..., P, L] at `rate` samples a second to power per Hz [..., L], from -rate/2 on.

    Hann window; the integral over the frequencies is the samples' mean energy.
    """
    length = segments.shape[-1]
    window = np.hanning(length + 1)[:-1]
    energy = np.abs(np.fft.fft(segments * window)) ** 2
    power = energy.mean(axis=-2) / (rate * np.sum(window**2))
    return np.asarray(np.fft.fftshift(power, axes=-1))
