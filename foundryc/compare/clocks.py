"""Whether words tell when a capture was made: of a time, its highest bytes are noise, too."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from foundryc.template import Words

_PAST = 24 * 3600 * 10**9
"""Nanoseconds; captures that are compared were made since then."""


def clock_readings(values: Words) -> npt.NDArray[np.bool_]:
    """Which of the words uint64 [3, n] are nanoseconds since 1970 of today in all captures, [n].

    Captures are made within minutes, so that the highest three bytes, which count 18 minutes, are
    often the same in all three, and others in the next bundle. A time is never the same twice.
    Times since the machine was started are not told from values: they are small.
    """
    now = time.time_ns()
    recent = (values <= np.uint64(now)) & (values >= np.uint64(now - _PAST))
    differ = (values[0] != values[1]) & (values[0] != values[2])
    found: npt.NDArray[np.bool_] = np.logical_and.reduce(recent, axis=0) & differ
    return found
