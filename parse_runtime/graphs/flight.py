"""A decode step on its way: launched before the host has read the tokens of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundryrt.protocols import Readback
from parse_runtime.engine.batch import Batch
from parse_runtime.signature.passes import PassSignature


@dataclass(frozen=True)
class Flight:
    """A launched pass of `batch`, whose tokens `readback` brings."""

    signature: PassSignature
    batch: Batch
    readback: Readback

    def places(self, batch: Batch, partly: bool = False) -> Sequence[int | None] | None:
        """Where the rows of `batch` are among its own; None unless all of them are there.

        With `partly` one is enough, and the others' places are None. A range where the two are
        alike. A row is the same where it has the same slot, token, position and sampling, as long
        as no other pass has touched the slot.
        """
        own = self.batch
        if _rows(own) == _rows(batch):
            return range(len(own))
        rows = list(zip(*_rows(own), strict=True))
        of_slot = {slot: place for place, slot in enumerate(own.slots)}
        places = [of_slot.get(slot) for slot in batch.slots]
        for i, row in enumerate(zip(*_rows(batch), strict=True)):
            place = places[i]
            if place is not None and rows[place] != row:
                places[i] = None
        known = len(places) - places.count(None)
        return places if known == len(places) or (partly and known) else None

    def tokens(self, places: Sequence[int | None] | None = None) -> list[int | None]:
        """What was sampled there, by default for the whole batch; waits for it."""
        found: list[int] = self.readback.wait().tolist()
        every = range(len(self.batch)) if places is None else places
        return [None if place is None else found[place] for place in every]


def _rows(batch: Batch) -> tuple[Sequence[object], ...]:
    return batch.slots, batch.tokens, batch.positions, batch.samplings
