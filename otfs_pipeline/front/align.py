"""Timing and carrier offset of a frame from the pulses of its pilot, one in each Doppler period.

The receiver takes any channel whose delays lie in 0 to `delay_spread` and whose Dopplers lie within
`nu_max`, so neither need be that of a path. What matters:

- Whole symbols of timing: hardly any of the data beside the strip reaches the pilot's window.
- The fraction of a symbol: a sample a symbol is fewer than the pulse's bandwidth asks for, and what
  aliases adds up best at one phase. It is the phase of the line at the symbol rate in the pulses'
  energy (Oerder and Meyr, 1988).
- Whole Doppler bins of the carrier: the mean Doppler, from the phase between neighbouring pulses.
- The fraction of a bin: what lies a frame apart in a burst is added, and must be in phase. It is
  the phase between pulses a frame apart.

A spread pilot's pulses are compressed first (compress.py). A path's own Doppler cannot be told from
a carrier offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.compress import Compression
from otfs_pipeline.link.channel import raised_cosine
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import (
    burst_window,
    centre_sample,
    pulse_reach,
    pulse_spectrum,
    scaled_dft,
    smooth,
)
from otfs_pipeline.waveform.slot import slot

STEPS = 4
"""Parts of a sample, at two samples a symbol, in which timing is found."""
_GRID = OVERSAMPLING * STEPS
# Samples a symbol of the pulses: their energy has twice the pulse's bandwidth.
DENSE = 4
# Of the data's power, what may reach the pilot's window: 10 dB below the noise at 25 dB.
REACHES = 3e-4
# Delays with less than this many times the data's power count as empty.
FLOOR = 1.5
# A burst is looked at in so many parts; none may have more than this share of the data's power
# where its strip is silent.
PARTS, SILENT = 4, 0.5
# Of a spread pilot data are everywhere; few periods' power has peaks of so many times its mean.
LOUD = 3.0
# Pulses spill over so many symbols; the strip is not silent so near to pilot and data.
NEAR = 2
# Share of the pilot's energy that may be beside its place.
ASTRAY = 0.1
# Of a pulse's tails, in symbols, where they are summed.
_TAIL = 64


def pilot_chips(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Doppler periods of a burst that have a pulse, and its sample, counted from the centre."""
    half, kp = slot(settings).half, settings.pilot_bin[0] - centre_sample(settings)
    periods = np.arange(-((half + kp) // settings.m), (half - kp) // settings.m + 1)
    return periods, kp + periods * settings.m


def pilot_taper(settings: Settings) -> np.ndarray:
    """The burst's window at these pulses, float64."""
    return np.asarray(burst_window(settings)[slot(settings).half + pilot_chips(settings)[1]])


def burst_parts(taper: np.ndarray) -> list[np.ndarray]:
    """The pulses of each part of a burst."""
    return np.array_split(np.flatnonzero(taper > 0.5), PARTS)


def seen_symbols(settings: Settings) -> int:
    """Delays that are looked at: the strip, and as much as a coarse timing may be wrong."""
    return min(settings.guard_bins // 2 + settings.delay_taps, settings.m // 2)


def filter_reach(settings: Settings) -> int:
    """Delays that are filtered for these: a spread pilot's strip lies around each."""
    strip = settings.guard_bins // 2 if settings.pilot == "spread" else 0
    return seen_symbols(settings) + strip


@dataclass(frozen=True)
class Alignment:
    """`delay` in samples of the front end, a multiple of 1/STEPS.

    `turn` is the mean phase from a Doppler period to the next, and `frame_turn` from a frame's
    duration to the next, as complex numbers. `whole` is False where the pilot is not in its place
    all through the burst: samples are missing.
    """

    delay: float
    turn: complex
    frame_turn: complex
    whole: bool


class Aligner:
    """Tables of a link."""

    def __init__(self, settings: Settings) -> None:
        self._settings = s = settings
        place, lp = slot(s), s.pilot_bin[1]
        periods, chips = pilot_chips(s)
        self._taper = pilot_taper(s)
        self._scale = (DENSE / OVERSAMPLING * self._taper[:, None]).astype(np.float32)
        # The pilot's own Doppler turns it from period to period.
        self._turn = np.exp(-2j * np.pi * lp * periods / s.n)[:, None]
        seen = seen_symbols(s)
        self._delays = np.arange(-DENSE * seen, DENSE * seen + 1) / DENSE
        spread = filter_reach(s) - seen
        self._compression = Compression(s, DENSE, self._delays.size) if spread else None
        self._filtered = DENSE * 2 * (seen + spread) + 1
        around = min(pulse_reach(s), s.m // 2)
        self._size = smooth(OVERSAMPLING * 2 * (seen + spread + around) + 1)
        first = OVERSAMPLING * (place.centre + chips - seen - spread - around)
        self._index = first[:, None] + np.arange(self._size)
        self._skip = DENSE * around
        pulse = self._size * pulse_spectrum(s, self._size, OVERSAMPLING)
        self._pulse = pulse.astype(np.float32)
        spill = spilled(s)
        self._spill = np.fft.rfft(spill, smooth(spill.size))
        self._timings = smooth(spill.size)
        self._line = np.exp(2j * np.pi * self._delays)

    @property
    def span(self) -> tuple[int, int]:
        """First sample that is looked at and the one after the last, from the preamble on."""
        return int(self._index[0, 0]), int(self._index[-1, -1]) + 1

    @property
    def farthest(self) -> int:
        """The largest delay, early or late, that may be found, in samples."""
        return OVERSAMPLING * int(self._delays[-1])

    def align(self, samples: np.ndarray, start: int, level: float) -> Alignment | None:
        """Of `samples` complex64 whose preamble begins about `start`; None without a pilot.

        `level` is the power of a symbol. Of several antennas, samples [S, antennas], it is that of
        all, and so are all energies.
        """
        antennas = samples[:, None] if samples.ndim == 1 else samples
        each = [self._pulses(antenna, start) for antenna in antennas.T]
        power = np.sum([np.abs(pulses) ** 2 for pulses in each], axis=0)
        profile = power.sum(axis=0) / np.sum(self._taper**4)
        energy = np.maximum(profile - FLOOR * level, 0)
        if self._compression:
            energy = self._compression.paths(energy)
        if not energy.any():
            return None
        delay = self._timing(energy)
        seen = [(pulses * self._turn)[:, energy > 0] for pulses in each]
        turns = [
            sum(complex(np.vdot(one[:-by], one[by:])) for one in seen)
            for by in (1, self._settings.n)
        ]
        whole = self._is_whole(power, energy, delay, level)
        return Alignment(delay * OVERSAMPLING, turns[0], turns[1], whole)

    def _pulses(self, samples: np.ndarray, start: int) -> np.ndarray:
        """What a matched filter gives around each pulse, tapered again, [periods, delays]."""
        pieces = samples[start + self._index]
        spectrum = scaled_dft(pieces, self._size) * self._pulse
        zeros = np.zeros((len(pieces), (DENSE // OVERSAMPLING - 1) * self._size), np.complex64)
        low, high = np.split(spectrum, [-(-self._size // 2)], axis=1)
        filtered = np.fft.ifft(np.concatenate([low, zeros, high], axis=1), axis=1)
        inner: np.ndarray = filtered[:, self._skip :][:, : self._filtered] * self._scale
        return self._compression.pulses(inner) if self._compression else inner

    def _timing(self, energy: np.ndarray) -> float:
        """The latest timing at which hardly any data reach the window, in symbols.

        The latest, since late paths are weak: they may lie below what is seen here.
        """
        fine = np.zeros((energy.size - 1) * _GRID // DENSE + 1)
        fine[:: _GRID // DENSE] = energy
        seen = np.fft.rfft(fine, self._timings)
        # Entry k is the sum over delays a of energy(a) · spill(a - d) at d = middle - k.
        cost = np.fft.irfft(self._spill * seen.conj(), self._timings)[: fine.size]
        delay = fine.size // 2 - np.arange(fine.size)
        phase = round(np.angle(energy @ self._line) / (2 * np.pi) * _GRID)
        cost[(delay - phase) % _GRID != 0] = np.inf
        allowed = cost.min() + REACHES * self._settings.window_delays * energy.sum()
        return float(delay[np.argmax(cost <= allowed)]) / _GRID

    def _is_whole(self, power: np.ndarray, energy: np.ndarray, delay: float, level: float) -> bool:
        """Whether the pilot is in its place, and the strip silent beside it, all through a burst.

        After samples that are missing, pilot and data are elsewhere.
        """
        s, symbols = self._settings, self._delays - delay
        place = (symbols >= -NEAR) & (symbols <= s.delay_taps + NEAR)
        if energy[~place].sum() > ASTRAY * energy.sum():
            return False
        for part in burst_parts(self._taper):
            floor = level * np.sum(self._taper[part] ** 4)
            if not self._is_part_whole(power[part].sum(axis=0), symbols, place, floor):
                return False
        return True

    def _is_part_whole(
        self, power: np.ndarray, symbols: np.ndarray, place: np.ndarray, floor: float
    ) -> bool:
        s, half = self._settings, self._settings.guard_bins // 2
        if self._compression:
            return not self._compression.is_astray(np.maximum(power - LOUD * floor, 0), place)
        silent = (symbols >= s.delay_taps - half + NEAR) & (symbols <= half - NEAR) & ~place
        width = NEAR * DENSE
        most = np.convolve(np.where(silent, power, 0), np.ones(width) / width).max()
        return bool(most <= SILENT * floor)


def spilled(s: Settings) -> np.ndarray:
    """Energy of data that reach the pilot's window by a path at each delay, float64.

    In steps of an eighth of a symbol, from twice the delays that are looked at before 0 on.
    """
    last = 2 * _GRID * seen_symbols(s)
    delay = np.arange(-last, last + 1) / _GRID
    return np.asarray(_over_the_edge(s, delay) + _over_the_edge(s, s.delay_taps - delay))


def _over_the_edge(s: Settings, distance: np.ndarray) -> np.ndarray:
    """Σ m g²(m + distance) over m = 1 to the window's length: m pairs of a datum and a row."""
    reach = min(pulse_reach(s), _TAIL)
    whole = np.floor(distance)[:, None]
    beyond = np.arange(-reach, reach + 1) - whole
    tail = raised_cosine(beyond + distance[:, None], s.rolloffs[0]) ** 2
    return np.asarray((np.clip(beyond, 0, s.window_delays) * tail).sum(axis=1))
