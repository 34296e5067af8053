"""The waveform of a simulated link: frames through channels of their own, impaired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from otfs_pipeline.link import transmit
from otfs_pipeline.link.profile import VEHICULAR_A, Profile
from otfs_pipeline.link.simulated import Channel
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import NONE, Impairments, impaired
from otfs_pipeline.waveform.modulate import Modulator, overlap_add


@dataclass(frozen=True)
class Simulation:
    """Frame i of a run has the payload and the channel that frame i of `source.simulate` has.

    More `threads` make all frames at once, and hold them.
    """

    settings: Settings
    seed: int
    profile: Profile = VEHICULAR_A
    impairments: Impairments = NONE
    oversampling: int = 2
    threads: int = 1

    def pieces(self, frames: Iterable[int]) -> Iterator[np.ndarray]:
        """The stream of these frames and a preamble after them, in pieces, complex64 [S].

        Of several antennas [S, antennas], with channels and noise of their own.

        Its first sample is that where the first preamble's pulse begins to rise.
        """
        modulator = Modulator(self.settings, self.oversampling)
        return impaired(
            overlap_add(self._slots(modulator, frames), modulator.step),
            self.impairments,
            modulator.rate,
            self.oversampling,
            self.seed,
            self.settings.stream_shape(0)[1:],
        )

    def starts(self, count: int) -> list[int]:
        """Where the preambles of `count` slots begin in the stream of `pieces`."""
        modulator = Modulator(self.settings, self.oversampling)
        first, step = modulator.lead, modulator.step
        return [self.impairments.moved(first + slot * step) for slot in range(count)]

    def _slots(self, modulator: Modulator, frames: Iterable[int]) -> Iterator[np.ndarray]:
        def made(index: int) -> np.ndarray:
            # The same first draws as in source.simulate.
            rng = np.random.default_rng([self.seed, index, 1])
            channel = Channel.draw(self.profile, rng, self.settings)
            bits = transmit.payload(self.seed, index, self.settings)
            sent = transmit.transmit(bits, self.settings)
            waveform = modulator.waveform(sent, self.impairments.fraction)
            each = [modulator.through(waveform, paths) for paths in channel.paths]
            return each[0] if len(each) == 1 else np.stack(each, axis=1)

        if self.threads == 1:
            yield from map(made, frames)
        else:
            with ThreadPoolExecutor(self.threads) as workers:
                yield from workers.map(made, frames)
        last = modulator.waveform(None, self.impairments.fraction)
        yield last if self.settings.antennas == 1 else np.stack([last] * self.settings.antennas, 1)
