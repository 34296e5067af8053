"""Peak-to-average power ratio of a frame on the air."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.link import transmit
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.linklevel import Errors
from otfs_pipeline.waveform.modulate import Modulator
from otfs_pipeline.waveform.pulse import pulse_spectrum

# Samples a symbol, at which hardly any peak lies between samples.
_OVERSAMPLING = 4


def peaks(link: Settings, rng: np.random.Generator) -> Errors:
    """`papr_db` of one frame's burst: its peak over its energy in the frame's duration T."""
    sent = transmit.transmit(transmit.payload(int(rng.integers(1 << 31)), 0, link), link)
    power = np.abs(_cyclic(sent, link) if link.waveform == "cp" else _burst(sent, link)) ** 2
    return {"papr_db": [float(10 * np.log10(power.max() / power.sum() * link.q * _OVERSAMPLING))]}


def _burst(sent: np.ndarray, link: Settings) -> np.ndarray:
    modulator = Modulator(link, _OVERSAMPLING)
    # Without its preamble.
    return np.asarray(modulator.waveform(sent) - modulator.waveform(None))


def _cyclic(sent: np.ndarray, link: Settings) -> np.ndarray:
    """One turn of a frame that the prefix makes cyclic."""
    spectrum = np.tile(np.fft.fft(sent), _OVERSAMPLING)
    pulse = pulse_spectrum(link, spectrum.size, _OVERSAMPLING)
    return np.asarray(np.fft.ifft(spectrum * pulse))
