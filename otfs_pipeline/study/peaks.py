"""Peak-to-average power ratio of a frame on the air."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.link import transmit
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.linklevel import Errors
from otfs_pipeline.waveform.modulate import Modulator

# Samples a symbol, at which hardly any peak lies between samples.
_OVERSAMPLING = 4


def peaks(link: Settings, rng: np.random.Generator) -> Errors:
    """`papr_db` of one frame's burst: its peak over its energy in the frame's duration T."""
    modulator = Modulator(link, _OVERSAMPLING)
    bits = transmit.payload(int(rng.integers(1 << 31)), 0, link)
    # Without its preamble.
    burst = modulator.waveform(transmit.transmit(bits, link)) - modulator.waveform(None)
    power = np.abs(burst) ** 2
    return {"papr_db": [float(10 * np.log10(power.max() / power.sum() * link.q * _OVERSAMPLING))]}
