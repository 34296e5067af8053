"""Prefills and verifications of a step: what comes next of those that wait, and beside what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from parse_runtime.engine.packing import VERIFY, Pass, plan, room_for
from parse_runtime.engine.protocols import Decoder, Prefilled, Target
from parse_runtime.engine.running import Running
from parse_runtime.engine.sequence import Decode, Extend


@dataclass(frozen=True)
class Planned:
    """Passes that come next, by the places of those that are due."""

    due: Sequence[Running]
    passes: Sequence[Pass]

    @staticmethod
    def of(
        due: Sequence[Running], target: Target, draft: Decoder, rows: int, others: bool
    ) -> Planned:
        """As many as `rows` allows; 0 leaves it to what waits. `others` wait for them, too."""
        sizes = {"target": target.prefills, "draft": draft.prefills}
        waiting = [running.due for running in due]
        largest = max(size.rows for known in sizes.values() for size in known)
        largest = max([largest, *(size.rows for size in target.shared)])
        return Planned(list(due), plan(waiting, sizes, rows or room_for(waiting, largest, others)))

    @property
    def prefill(self) -> Pass | None:
        """What comes first, if that is a prefill."""
        first = next(iter(self.passes), None)
        return None if first is None or first.kind == VERIFY else first

    def shares(self, one: Pass) -> dict[Running, int]:
        """How many rows a pass computes of each."""
        return {self.due[place]: rows for place, rows in one.shares.items()}

    def behind_first(self) -> Planned:
        """Without the pass that comes first."""
        return replace(self, passes=self.passes[1:])

    def stays(self, kind: type[Decode] | type[Extend], together: Sequence[Running]) -> bool:
        """Whether a model's next batch is likely to come next, with these sequences and no others.

        Others join after a prefill or a verification of that model.
        """
        kinds = ("draft",) if kind is Decode else ("target", VERIFY)
        joins = any(one.ends and one.kind in kinds for one in self.passes)
        return not joins and not all(cast(Decode | Extend, r.call).last for r in together)

    def mixes(self, target: Target, together: Sequence[Running]) -> bool:
        """Whether the first pass is a prefill that can have these sequences' next step beside it.

        Logits of a step come of a pass of its own.
        """
        first = self.prefill
        if first is None or first.kind != "target":
            return False
        if any(cast(Extend, running.call).scored for running in together):
            return False
        chunks = [running.chunk(rows) for running, rows in self.shares(first).items()]
        return target.mixes(chunks, len(together))


@dataclass(frozen=True)
class Launched:
    """A prefill pass that has been launched and is not read yet, and what comes after it."""

    kind: str
    shares: Mapping[Running, int]
    """Rows that it computes."""
    wait: Prefilled
    mixed: bool
    """Whether it has a step of others, too."""
    others: Planned
    """Passes of the same step."""
