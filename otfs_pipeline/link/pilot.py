"""The pilot of a frame: a point, or a chirp along the guard strip's delays.

Both lie on one Doppler bin, so the channel's Dopplers show apart whatever the pilot is along delay:

    y[k, lp+b] = Σ_a h[a,b] p[k-a] e^{j2πb(k-a)/Q}

A point in delay is one strong sample in each Doppler period. A discrete chirp has its energy in all
of the strip's samples alike (a spread pilot: arXiv 2404.04182; Zadoff-Chu sequences in the
delay-Doppler domain: arXiv 2412.04295). Its period of L delays is a perfect sequence: shifted
copies are orthogonal. The strip holds that period and, before and behind, as much of its
repetitions as the taps reach, so that in L delays the response is cyclic and free of data. There
the cross-ambiguity with the pilot is the channel itself:

    ĥ[a,b] = 1/E Σ_k y[k, lp+b] p*[k-a] e^{-j2πb(k-a)/Q}, E = Σ_k |p[k]|², k over these L delays
"""

from __future__ import annotations

import math

import numpy as np

from otfs_pipeline.settings import Settings

# Of many QAM symbols in a sample, over their rms: exceeded by one sample in ten million.
_CREST = 4.0


def zadoff_chu(index: np.ndarray, period: int) -> np.ndarray:
    """The Zadoff-Chu sequence of root 1 at any integers, complex128 of modulus 1."""
    index = index % period
    return np.asarray(np.exp(-1j * np.pi * index * (index + period % 2) / period))


def pilot_strip(settings: Settings) -> np.ndarray:
    """The pilot on its Doppler bin along the guard strip, complex128 [guard bins]."""
    if settings.pilot == "point":
        return point_strip(settings)
    bins = settings.guard_bins
    chirp = zadoff_chu(np.arange(bins), settings.chirp_period)
    return np.asarray(np.sqrt(settings.pilot_energy / bins) * chirp)


def point_strip(settings: Settings) -> np.ndarray:
    """A point of the pilot's amplitude in the middle of the strip, complex128 [guard bins]."""
    strip = np.zeros(settings.guard_bins, np.complex128)
    strip[settings.guard_bins // 2] = settings.pilot_amplitude
    return strip


def seen_delays(settings: Settings) -> np.ndarray:
    """Delay bins at which the taps are read, int64 [window], or of a spread pilot [L]."""
    kp, half = settings.pilot_bin[0], settings.guard_bins // 2
    if settings.pilot == "spread":
        return kp - half + settings.last_tap + np.arange(settings.chirp_period)
    return kp + settings.first_tap + np.arange(settings.window_delays)


def matched(settings: Settings) -> np.ndarray:
    """p[k - first tap] / √E over `seen_delays` of a spread pilot, complex128 [L].

    Its cyclic correlation with what is seen gives √E times the taps; its shifts are orthonormal.
    """
    first = settings.last_tap - settings.first_tap
    index = first + np.arange(settings.chirp_period)
    chirp = zadoff_chu(index, settings.chirp_period)
    return np.asarray(chirp / np.sqrt(settings.chirp_period))


def largest_sample(settings: Settings) -> float:
    """About the largest modulus of a frame's samples in time.

    That of a point pilot's pulses, or where data have the peaks four times their rms.
    """
    pulse = float(np.abs(pilot_strip(settings)).max()) / math.sqrt(settings.n)
    return max(pulse, _CREST)
