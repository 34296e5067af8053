"""A simulated channel to a link's antennas: what it makes of a frame, and its taps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from otfs_pipeline.link import banded, prefix
from otfs_pipeline.link.channel import Paths, Taps
from otfs_pipeline.link.profile import Profile, simulated_taps
from otfs_pipeline.settings import Settings


@dataclass(frozen=True)
class Channel:
    """Paths to each antenna."""

    settings: Settings
    paths: tuple[Paths, ...]

    @classmethod
    def draw(cls, profile: Profile, rng: np.random.Generator, settings: Settings) -> Channel:
        """Antennas fade independently of each other."""
        s = settings
        return cls(s, tuple(profile.draw(rng, s.nu_max, s.gain_model) for _ in range(s.antennas)))

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """A sent frame [MN] as it is received without noise, [MN] or [antennas, MN]."""
        s = self.settings
        if s.waveform == "cp":
            received = np.stack([prefix.through(samples, one, s) for one in self.paths])
        else:
            received = banded.apply_samples(samples, banded.antenna_bands(self.taps, s.q))
        return received.reshape(s.frame_shape)

    @cached_property
    def taps(self) -> list[Taps]:
        """To each antenna: the effective ones, cut where the simulation cuts them.

        With a prefix they are half a bin apart, as the receivers take them.
        """
        s = self.settings
        if s.waveform == "cp":
            return [prefix.exact_taps(one, s) for one in self.paths]
        return [simulated_taps(one, s) for one in self.paths]
