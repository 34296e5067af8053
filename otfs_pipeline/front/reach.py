"""How far a tracker looks, in samples of the front end, and how many of them it holds."""

from __future__ import annotations

from dataclasses import dataclass

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot

BURSTS = 4
"""Slots that lie one after the other in an array of a tracker's buffer."""
# Symbols by which a preamble may come early or late, beside the delays of a channel that changes.
_SLACK = 4


@dataclass(frozen=True)
class Reach:
    """Counted from where a preamble, of `size` samples, begins.

    step: to the next preamble, which may be by `margin` early or late. near: until a burst can be
    given on, far: until it is decided what has happened where the next preamble is not in its
    place; before: how much is held in front.
    """

    size: int
    step: int
    margin: int
    near: int
    far: int
    before: int

    @staticmethod
    def of(settings: Settings, span: tuple[int, int]) -> Reach:
        """`span`: first sample of a burst that is wanted and the one after the last."""
        size, step = OVERSAMPLING * settings.m, OVERSAMPLING * slot(settings).chips
        margin = OVERSAMPLING * (settings.delay_taps + _SLACK)
        near = max(span[1], step + size) + margin
        before = size + margin + max(0, -span[0])
        return Reach(size, step, margin, near, step + margin + near, before)

    @property
    def capacity(self) -> int:
        """Samples of a buffer's array."""
        return self.before + self.near + self.margin + (BURSTS - 1) * self.step
