"""Frames with a cyclic prefix and a rectangular window in time (reduced-CP OTFS, Raviteja 2019).

A frame is what lies between its prefix and the next: r[n] = Σ_a c_a[n] s[(n-a) mod Q] for n in 0 to
Q-1, with c_a[n] = Σ_i h_i g(a-Bτ_i) e^{j2πν_i(n/B-τ_i)}. Paths have Dopplers between the bins, and
a rectangle's spectrum falls so slowly that each leaks into all of them. So Dopplers are not looked
at. A point pilot samples each c_a once a Doppler period:

    y[nM+kp+a] = A/√N e^{j2πn lp/N} c_a[nM+kp+a]

These N samples are read as Slepian sequences of the band |ν| <= W (slepian.py): the first ones are
the channel, the last ones noise alone. Delays are kept whose energy stands out of the noise, and
their sequences are weighted by P/(P+σ²), with P their share of that energy (Wiener). A sinc's are
smoothed along delay before (smoothing.py). Between the samples the sequences are continued, and for
the receivers written as Dopplers of half a bin:

    c_a[n] = Σ_b h[a,b] e^{j2πb(n-a)/2Q}, b = -D ... D

These are whole bins of a frame of 2N periods, of which the second half is empty. So the receivers
take that one. The strip is at the periods' end: none of them holds the frame's end and its
beginning.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from otfs_pipeline.link.channel import Paths, Taps, raised_cosine
from otfs_pipeline.link.slepian import channel_shares, continued, slepian
from otfs_pipeline.link.smoothing import is_smoothed
from otfs_pipeline.settings import CHANNEL_REACH, Settings

TINY = 1e-30
"""Keeps 0/0 out of a frame of zeros; far below the energy of any other."""
# Times a Doppler period at which sequences and Dopplers of half a bin are compared.
_DENSE = 32
# Singular values that count, over the largest: Dopplers so close are nearly dependent.
_RANK = 1e-9


@lru_cache(maxsize=8)
def reading(settings: Settings) -> np.ndarray:
    """Slepian rows of samples at the pilot's delays of N periods, complex128 [N, N], unitary."""
    n = np.arange(settings.n)
    turn = np.exp(-2j * np.pi * n * settings.pilot_bin[1] / settings.n)
    return np.asarray(slepian(settings)[1].T * turn)


@lru_cache(maxsize=8)
def mixing(settings: Settings) -> np.ndarray:
    """Slepian rows to Dopplers of half a bin, complex128 [2D+1, rows]; the pilot's gain is out."""
    s = settings
    at = np.arange(-(s.pilot_bin[0] + s.last_tap), s.q - s.pilot_bin[0], s.m / _DENSE) / s.m
    rows = _dopplers(s.pilot_bin[0] + at * s.m, continued(s, at), s, s.doppler_range)
    return np.asarray(rows * np.sqrt(s.n) / s.pilot_amplitude)


def most_delays(settings: Settings) -> int:
    """Delays that are kept at most: `max_taps` sequences, but one delay at least.

    Of a sinc `max_taps` delays: its tails are many, and come from few paths.
    """
    rows = 1 if is_smoothed(settings) else channel_shares(settings).size
    return min(max(1, settings.max_taps // rows), settings.window_delays)


def least_energy(settings: Settings) -> float:
    """Energy of the channel's sequences, over their noise, from which on a delay is kept.

    `tap_sigmas` standard deviations over the mean of what noise has in them.
    """
    rows = channel_shares(settings).size
    return float(rows + settings.tap_sigmas * np.sqrt(rows))


def exact_taps(paths: Paths, settings: Settings) -> Taps:
    """The channel of these paths as taps of half a bin, with more Dopplers than are estimated."""
    s = settings
    reach = s.doppler_range + 8
    # As n - a.
    t = np.arange(-2 * s.m, s.q + s.m, s.m / _DENSE)
    turning = np.exp(2j * np.pi * np.outer(t / s.bandwidth, paths.doppler))
    dopplers = _dopplers(t, turning, s, reach)
    a, response = _responses(paths, s)
    phase = np.exp(2j * np.pi * np.outer(paths.doppler, a / s.bandwidth))
    value = np.einsum("pa,bp->ab", response * phase, dopplers)
    aa, bb = np.meshgrid(a, np.arange(-reach, reach + 1), indexing="ij")
    return Taps(value.ravel(), aa.ravel(), bb.ravel())


def through(samples: np.ndarray, paths: Paths, settings: Settings) -> np.ndarray:
    """A frame [Q] through a channel of physical paths, complex128 [Q]."""
    s = settings
    a, response = _responses(paths, s)
    impulse = np.zeros((paths.gain.size, s.q), np.complex128)
    impulse[:, a % s.q] = response
    delayed = np.fft.ifft(np.fft.fft(impulse, axis=1) * np.fft.fft(samples), axis=1)
    turn = np.exp(2j * np.pi * np.outer(paths.doppler, np.arange(s.q) / s.bandwidth))
    return np.asarray(np.sum(turn * delayed, axis=0))


def _responses(paths: Paths, s: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Delays a [W], and h_i e^{-j2πν_iτ_i} g(a-Bτ_i), [paths, W]."""
    reach, position = CHANNEL_REACH[s.pulse], s.bandwidth * paths.delay
    last = int(np.ceil(position.max())) + reach
    a = np.arange(-min(reach, s.m // 2), min(last, s.m // 2) + 1)
    gain = paths.gain * np.exp(-2j * np.pi * paths.doppler * paths.delay)
    return a, gain[:, None] * raised_cosine(a - position[:, None], s.rolloffs[0])


def _dopplers(t: np.ndarray, values: np.ndarray, s: Settings, reach: int) -> np.ndarray:
    """Functions [times, functions] at samples t as Dopplers of half a bin, [2 reach + 1, ...]."""
    b = np.arange(-reach, reach + 1)
    turning = np.exp(2j * np.pi * np.outer(t / (2 * s.q), b))
    return np.asarray(np.linalg.lstsq(turning, values, rcond=_RANK)[0])
