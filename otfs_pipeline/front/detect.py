"""Where a preamble begins: normalized correlation with the known one."""

from __future__ import annotations

import numpy as np

from foundryrt.native.front_core import Correlator, awake_threads
from foundryrt.parallel import available_threads
from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.preamble import preamble_template

# Noise exceeds a share c of the energy at one place with probability e^(-cM): here 1e-6.
_FALSE_ALARM = 14.0
# Small grids are detected with fewer false alarms than they would need, and large ones in spite of
# many paths of equal power.
_LEAST, _MOST = 0.05, 0.4
# Threads that search a whole slot, at most: the radio does not wait for a lock.
_THREADS = 16


class Detector:
    """Finds a link's preamble, with a carrier offset of up to a third of the Doppler period."""

    def __init__(self, settings: Settings) -> None:
        self.template = preamble_template(settings, OVERSAMPLING)
        self._nu_p = settings.nu_p
        # Made for numbers of places that are powers of two.
        self._correlators: dict[int, Correlator] = {}
        self._threads, self._awake = min(available_threads(), _THREADS), awake_threads()
        self.threshold = min(max(_FALSE_ALARM / settings.m, _LEAST), _MOST)

    @property
    def size(self) -> int:
        """Samples of the preamble."""
        return int(self.template.size)

    def find(self, samples: np.ndarray) -> int | None:
        """The index at which a preamble most likely begins; None where none is.

        `samples` holds the places to look at and a preamble more, [places + size - 1] complex64. Of
        several antennas, [.., antennas], the first that has heard it says where.
        """
        if samples.ndim == 1:
            return self._find(samples)
        heard = (self._find(np.ascontiguousarray(antenna)) for antenna in samples.T)
        return next((at for at in heard if at is not None), None)

    def carrier(self, samples: np.ndarray) -> float:
        """About the carrier offset of a preamble that fills `samples`, in Hz, from -nu_p to nu_p.

        By the phase from its first half to its second, which are half a Doppler period apart.
        """
        pairs = (samples.T * self.template.conj()).reshape(-1, 2, self.size // 2)
        first, second = pairs.sum(axis=-1).T
        return float(np.angle(np.vdot(first, second))) / np.pi * self._nu_p

    def _find(self, samples: np.ndarray) -> int | None:
        places = min(samples.size - self.size + 1, self.size)
        power = 1 << max(places - 1, 0).bit_length()
        if power not in self._correlators:
            self._correlators[power] = Correlator(
                self.template, power, threads=self._threads, awake=self._awake
            )
        return self._correlators[power].find(samples, self.threshold)
