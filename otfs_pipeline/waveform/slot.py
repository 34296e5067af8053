"""Where a frame lies on the air: a slot holds a preamble and a frame's burst.

A burst is (1+β)T long and fades in and out. Bursts follow one another so closely that no more than
LEAKAGE of a frame's energy comes from its neighbours and their preambles. A preamble takes one
Doppler period and stands where one burst has faded and the next has not risen: it costs no time
where the roll-off leaves room for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from otfs_pipeline.link import frame
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import half_burst, root_raised_cosine

LEAKAGE = 1e-4
"""Share of a frame's energy that may come from its neighbours: 15 dB below the noise at 25 dB."""


@dataclass(frozen=True)
class Slot:
    """In samples at the link's bandwidth, from the first chip of the preamble on.

    `chips` from a preamble to the next; `centre` of the burst, where the frame's sample 0 is;
    `half` of the burst on each side of it.
    """

    chips: int
    centre: int
    half: int
    seconds: float
    """From a frame to the next: the receiver's deadline on the air."""


@lru_cache(maxsize=16)
def slot(settings: Settings) -> Slot:
    """The slot of a link, a whole number of Doppler periods long."""
    periods = settings.n
    if settings.waveform == "cp":
        # Nothing overlaps.
        periods = 1 - (-(2 * half_burst(settings) + 1) // settings.m)
    while settings.waveform == "zak" and _leakage(settings, periods) > LEAKAGE:
        periods += 1
    chips = periods * settings.m
    centre = (chips + settings.m) // 2
    return Slot(chips, centre, half_burst(settings), periods / settings.nu_p)


def air_payload_mbps(settings: Settings) -> float:
    """Payload of back-to-back slots, preamble and roll-off included, in Mbit/s."""
    return frame.payload_bits(settings) / slot(settings).seconds / 1e6


def _leakage(settings: Settings, periods: int) -> float:
    """Share of a frame's energy that comes from both neighbours, at this distance of bursts."""
    steps = 64  # a period
    t = (np.arange(-periods * steps, periods * steps) + 0.5) / (steps * settings.n)
    rolloff, distance = settings.rolloffs[1], periods / settings.n
    own, before, after = (
        root_raised_cosine(t + shift, rolloff) ** 2 for shift in (0.0, distance, -distance)
    )
    preambles = np.abs(np.abs(t) - distance / 2) < 0.5 / settings.n
    return float(np.sum(own * (before + after + preambles)) / np.sum(own))
