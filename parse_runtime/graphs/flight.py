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

    def places(self, batch: Batch) -> Sequence[int] | None:
        """Where the rows of `batch` are among its own; None unless all of them are there.

        A range where the two are alike.
        A row is the same where it has the same slot, token, position and sampling, as long as no
        other pass has touched the slot.
        """
        own = self.batch
        if _rows(own) == _rows(batch):
            return range(len(own))
        found = {row: place for place, row in enumerate(zip(*_rows(own), strict=True))}
        places = [found.get(row) for row in zip(*_rows(batch), strict=True)]
        known = [place for place in places if place is not None]
        return known if len(known) == len(places) else None

    def tokens(self, places: Sequence[int] | None = None) -> list[int]:
        """What was sampled there, by default for the whole batch; waits for it."""
        found: list[int] = self.readback.wait().tolist()
        return [found[place] for place in places or range(len(self.batch))]


def _rows(batch: Batch) -> tuple[Sequence[object], ...]:
    return batch.slots, batch.tokens, batch.positions, batch.samplings
