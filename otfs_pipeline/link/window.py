"""The rows of the window in which a frame's taps are read: Dopplers, or Slepian sequences."""

from __future__ import annotations

from otfs_pipeline.link import slepian
from otfs_pipeline.settings import Settings


def channel_rows(settings: Settings) -> int:
    """Rows that belong to the channel, the first ones."""
    if settings.waveform == "cp":
        return slepian.channel_rows(settings)
    return 2 * settings.doppler_range + 1


def noise_row(settings: Settings) -> int:
    """The first row that holds noise alone."""
    return slepian.noise_row(settings) if settings.waveform == "cp" else channel_rows(settings)


def most_taps(settings: Settings) -> int:
    """Entries of the channel's rows that are kept at most."""
    return min(settings.max_taps, settings.window_delays * channel_rows(settings))
