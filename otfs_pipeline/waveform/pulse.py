"""The pulses of a link: root raised cosine in delay and in Doppler (arXiv 2604.02266).

A pulse w1(τ) w2(ν) on a frame's delay-Doppler symbols means in time: the frame's samples, repeated
with its period T, are multiplied by the window W2(t), the inverse Fourier transform of w2, and then
filtered by w1. So the roll-off in Doppler is a taper in time: a burst lasts (1+β)T.
"""

from __future__ import annotations

import math

import numpy as np

from otfs_pipeline.settings import Settings


def root_raised_cosine(x: np.ndarray, rolloff: float) -> np.ndarray:
    """√ of a raised cosine of width 1 around 0, float64.

    x is a frequency over the bandwidth, or a time over a frame's duration. The squares of all
    copies at a distance of 1 sum to 1. Roll-off 0 gives a rectangle.
    """
    width = max(rolloff, 1e-9)
    edge = np.clip((np.abs(x) - (1 - width) / 2) / width, 0, 1)
    # cos(π/2) is not quite zero.
    return np.where(edge < 1, np.cos(np.pi / 2 * edge), 0.0)


def centre_sample(settings: Settings) -> int:
    """The frame's sample in the middle of its burst.

    A frame that is folded begins there. With a prefix it is sent from its first sample to its last.
    """
    return settings.q // 2 if settings.waveform == "cp" else 0


def half_burst(settings: Settings) -> int:
    """Samples of a burst on each side of its centre: -half to half.

    A prefix, and as much behind the frame, are as long as the taps.
    """
    if settings.waveform == "cp":
        return settings.q // 2 + settings.last_tap
    return math.ceil((1 + settings.rolloffs[1]) * settings.q / 2)


def burst_window(settings: Settings) -> np.ndarray:
    """W2 at samples -half to half of a burst around its centre, float64 [2 half + 1]."""
    half = half_burst(settings)
    if settings.waveform == "cp":
        return np.ones(2 * half + 1)
    return root_raised_cosine(np.arange(-half, half + 1) / settings.q, settings.rolloffs[1])


def pulse_spectrum(settings: Settings, count: int, oversampling: int) -> np.ndarray:
    """DFT of w1 over `count` samples at `oversampling` a symbol, of unit energy, float64.

    In numpy's order of frequencies; the pulse is centred on sample 0.
    """
    frequency = np.fft.fftfreq(count, 1 / oversampling)
    shape = root_raised_cosine(frequency, settings.rolloffs[0])
    return np.asarray(np.sqrt(oversampling) * shape)


def pulse_reach(settings: Settings) -> int:
    """Samples after which w1 has died away: below -50 dB of its peak; sinc is cut.

    The pulse falls as 1/t² times 1/β from about 1/β on, a sinc as 1/t.
    """
    rolloff = settings.rolloffs[0]
    return min(settings.m, math.ceil(10 / rolloff)) if rolloff else settings.m


def scaled_dft(samples: np.ndarray, count: int) -> np.ndarray:
    """DFT of [..., S] over `count` samples, divided by it; complex64 where the samples are.

    numpy computes a DFT that it need not divide in double precision, which takes four times as
    long.
    """
    return np.asarray(np.fft.fft(samples, count, norm="forward"))


def smooth(least: int) -> int:
    """The smallest number from `least` on whose prime factors are 2, 3 and 5: DFTs are fast."""
    best = 1 << (least - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-least // three)
            best = min(best, three << (rest - 1).bit_length())
            three *= 3
        five *= 5
    return best
