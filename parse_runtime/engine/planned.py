"""Prefills and verifications of a step: what comes next of those that wait, and beside what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from parse_runtime.engine.packing import VERIFY, Pass, plan, room_for
from parse_runtime.engine.protocols import Decoder, Prefilled, Target
from parse_runtime.engine.putting_off import late
from parse_runtime.engine.running import Running
from parse_runtime.engine.sequence import Decode, Extend, Prefill
from parse_runtime.signature.sizes import PrefillSize, beside

_TOGETHER = 4
"""The rows of so many of the largest passes are a step's while all answers are to be drafted and
judged: as it begins nobody waits for a next token, and steps of all cost little more than those of
a few. Requests come and leave between two steps."""

_FEW, _SOME_ROWS = 96, 512
"""While up to so many answers have tokens or wait for their prompts, a pass with a step has so many
rows at most. A step of more costs about what its rows do, and gains nothing by going along."""


@dataclass(frozen=True)
class Planned:
    """Passes that come next, by the places of those that are due."""

    due: Sequence[Running]
    passes: Sequence[Pass]

    @staticmethod
    def of(
        due: Sequence[Running], running: Collection[Running], target: Target, draft: Decoder,
        rows: int,
    ) -> Planned:  # fmt: skip
        """As many as `rows` allows, of all that run; 0 leaves it to what waits."""
        others = len(running) > len(due)
        due = _without_early(due, running, target) if target.shared else list(due)
        waiting = [one.due for one in due]
        resuming = sum(isinstance(one.call, Extend) for one in running)
        prompts = sum(one.kind == "target" for one in waiting)
        mixed = _beside(target, resuming, prompts)
        sizes = {"target": mixed or target.prefills, "draft": draft.prefills}
        largest = max(size.rows for model in (target, draft) for size in model.prefills)
        largest = max([largest, *(size.rows for size in target.shared)])
        if not any(map(_streams, running)):
            largest, others = _TOGETHER * largest, False
        passes = plan(waiting, sizes, rows or room_for(waiting, largest, others))
        if mixed:  # a step goes with one pass
            passes = [one for i, one in enumerate(passes) if not i or one.kind != "target"]
        return Planned(due, passes)

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
        if any(call.scored for call in cast(list[Extend], [one.call for one in together])):
            return False
        chunks = [running.chunk(rows) for running, rows in self.shares(first).items()]
        return target.mixes(chunks, len(together))


def _beside(target: Target, resuming: int, prompts: int) -> list[PrefillSize]:
    """What passes have for prompts beside a step of all that resume; none without such passes.

    A step that goes along reads no weights by itself. Where few answers run, that is most of its
    cost, and several passes of some rows, each with a step, take less time than one of many.
    """
    sizes = beside(target.mixed, resuming) if resuming else []
    if resuming + prompts <= _FEW:
        sizes = [size for size in sizes if size.rows + size.batch <= _SOME_ROWS] or sizes[:1]
    return [size.prompt_rows for size in sizes]


def _without_early(
    due: Sequence[Running], running: Collection[Running], target: Target
) -> list[Running]:
    """Without verifications that had better wait for drafts that are being written.

    They share a pass once as many wait as are being written, or as one takes. A pass for each would
    hold up those that write, and each of these would then ask for one of its own. Others may write
    for long, or drafts that share none.
    """
    together = [one for one in due if one.shared]
    writing = sum(_writes(one) for one in running)
    enough = min(writing, max(size.drafts for size in target.shared))
    if len(together) >= enough or late(together):
        return list(due)
    return [one for one in due if not one.shared]


def _streams(running: Running) -> bool:
    """Whether it has a token after the other, or does once its prompt is there."""
    return isinstance(running.call, Extend) or not running.answer.drafts


def _writes(running: Running) -> bool:
    """Whether the draft model writes its answer, or is about to."""
    call = running.call
    return isinstance(call, Decode) or (isinstance(call, Prefill) and call.model == "draft")


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
