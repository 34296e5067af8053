"""The preamble: one Doppler period of QPSK chips from the pseudo-random sequence of 3GPP 38.211.

It is as long as the channel and a carrier offset well below the Doppler period leave coherent, and
has the mean power of a frame.
"""

from __future__ import annotations

import numpy as np

from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import pulse_reach, pulse_spectrum

_ADVANCE, _DEGREE = 1600, 31


def pseudo_random(count: int, seed: int) -> np.ndarray:
    """The length-31 Gold sequence c(n) of 3GPP 38.211, 5.2.1, for c_init = seed; uint8 [count]."""
    total = count + _ADVANCE
    first, second = np.zeros((2, total + _DEGREE), np.uint8)
    first[0] = 1
    second[:_DEGREE] = (seed >> np.arange(_DEGREE)) & 1
    for n in range(total):
        first[n + _DEGREE] = first[n + 3] ^ first[n]
        second[n + _DEGREE] = second[n + 3] ^ second[n + 2] ^ second[n + 1] ^ second[n]
    return (first ^ second)[_ADVANCE:total]


def preamble_chips(settings: Settings) -> np.ndarray:
    """Chips of unit energy, complex128 [M]."""
    bits = pseudo_random(2 * settings.m, settings.m).reshape(-1, 2)
    signs = 1.0 - 2.0 * bits
    return np.asarray((signs[:, 0] + 1j * signs[:, 1]) / np.sqrt(2))


def preamble_template(settings: Settings, oversampling: int) -> np.ndarray:
    """The shaped preamble from its first chip on, complex64 [M · oversampling], unit energy."""
    reach = pulse_reach(settings)
    chips = np.pad(preamble_chips(settings), reach)
    spectrum = np.tile(np.fft.fft(chips), oversampling)
    shaped = np.fft.ifft(spectrum * pulse_spectrum(settings, spectrum.size, oversampling))
    inner = shaped[reach * oversampling :][: settings.m * oversampling]
    return np.asarray(inner / np.linalg.norm(inner), np.complex64)
