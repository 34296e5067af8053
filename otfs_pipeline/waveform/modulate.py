"""A frame's samples to its waveform on the air, and through a channel of physical paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from otfs_pipeline.link.channel import Paths
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.preamble import preamble_chips
from otfs_pipeline.waveform.pulse import (
    burst_window,
    centre_sample,
    pulse_reach,
    pulse_spectrum,
    smooth,
)
from otfs_pipeline.waveform.slot import slot


class Modulator:
    """Makes the waveforms of slots, at `oversampling` samples a symbol, 2 or more.

    A waveform is complex128 and begins `lead` samples before the first chip of its preamble; the
    next slot's begins `step` samples later, and the two overlap.
    """

    def __init__(self, settings: Settings, oversampling: int = 2) -> None:
        self.settings, self.oversampling = settings, oversampling
        self.slot = slot(settings)
        reach = pulse_reach(settings)
        self._first = max(self.slot.half - self.slot.centre, 0) + reach
        last = max(self.slot.centre + self.slot.half, settings.m) + reach + settings.delay_taps
        self._chips = smooth(self._first + last + 1)
        self._window = burst_window(settings)
        self._preamble = preamble_chips(settings)
        self._pulse = pulse_spectrum(settings, self._chips * oversampling, oversampling)
        self.lead = self._first * oversampling
        self.step = self.slot.chips * oversampling
        self.rate = settings.bandwidth * oversampling

    def waveform(self, samples: np.ndarray | None, delay: float = 0.0) -> np.ndarray:
        """Preamble and burst of a frame [Q], or a preamble alone; `delay` in samples."""
        chips = np.zeros(self._chips, np.complex128)
        if samples is not None:
            half = self.slot.half
            at = self._first + self.slot.centre - half
            first = centre_sample(self.settings) - half
            repeated = np.take(samples, first + np.arange(2 * half + 1), mode="wrap")
            chips[at : at + 2 * half + 1] = repeated * self._window
        chips[self._first : self._first + self.settings.m] += self._preamble
        spectrum = np.tile(np.fft.fft(chips), self.oversampling) * self._pulse
        return np.fft.ifft(spectrum * self._delayed(delay))

    def through(self, waveform: np.ndarray, paths: Paths) -> np.ndarray:
        """r(t) = Σ h_i s(t-τ_i) e^{j2πν_i(t-τ_i)}, with t = 0 at sample 0 of the frame."""
        spectrum = np.fft.fft(waveform)
        origin = self.lead + self.slot.centre * self.oversampling
        t = (np.arange(waveform.size) - origin) / self.rate
        received = np.zeros_like(waveform)
        for gain, tau, nu in zip(paths.gain, paths.delay, paths.doppler, strict=True):
            delayed = np.fft.ifft(spectrum * self._delayed(tau * self.rate))
            received += gain * delayed * np.exp(2j * np.pi * nu * (t - tau))
        return received

    def _delayed(self, samples: float) -> np.ndarray:
        return np.asarray(np.exp(-2j * np.pi * np.fft.fftfreq(self._pulse.size) * samples))


def overlap_add(waveforms: Iterable[np.ndarray], step: int) -> Iterator[np.ndarray]:
    """The sum of waveforms, each `step` samples after the one before, in pieces of `step`.

    A last piece holds what is left.
    """
    rest = np.zeros(0, np.complex128)
    for waveform in waveforms:
        length = max(len(rest), len(waveform), step)
        total = np.zeros((length, *waveform.shape[1:]), np.complex128)
        if len(rest):
            total[: len(rest)] += rest
        total[: len(waveform)] += waveform
        yield total[:step]
        rest = total[step:]
    yield rest
