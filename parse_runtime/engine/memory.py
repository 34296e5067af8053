"""Room in both models' caches for what answers hold, and beginnings that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm

from foundryrt.errors import UsageError
from parse_runtime.engine.blocks import contents
from parse_runtime.engine.protocols import Decoder, Target, Verification
from parse_runtime.engine.sequence import Call, Decode, Extend, Prefill
from parse_runtime.signature.sizes import BLOCK, blocks_of

SHARING = ("exact", "blocks", "off")
SHARING_OPTION = (SHARING[0], "of prompts that begin alike: whole passes, blocks of 16 tokens, off")
"""Default and help of the commands' option."""
_AHEAD = 64
"""Rows that steps are given in advance where there are many."""


@dataclass(frozen=True)
class Usage:
    """Blocks of a model's cache."""

    used: int
    shared: int
    """Those of them that several answers have."""
    total: int


class Memory:
    """What the slots of a target and a draft model hold, in blocks.

    `sharing` says how much of a prompt may be another's. `exact`: as many rows as both begin with
    in whole passes of the longest kind, which give the same bits whatever follows where prompts are
    computed one by one. `blocks`: all blocks that are alike; the other rows are then computed in
    passes of another size, and agree up to rounding.
    """

    def __init__(self, target: Target, draft: Decoder, sharing: str = SHARING[0]) -> None:
        if sharing not in SHARING:
            raise UsageError(f"share-prefixes {sharing!r}: one of {', '.join(SHARING)}")
        self._target, self._draft, self._sharing = target, draft, sharing

    def replace(self, target: Target, draft: Decoder) -> None:
        """Go on with other models, whose caches and tables are those of the present ones."""
        self._target, self._draft = target, draft

    @property
    def usage(self) -> dict[str, Usage]:
        """Of target and draft."""
        pools = {"target": self._target.tables.pool, "draft": self._draft.tables.pool}
        return {name: Usage(pool.used, pool.shared, pool.count) for name, pool in pools.items()}

    def admits(self, tokens: Sequence[int], drafted: int, others: int) -> bool:
        """Whether a sequence may begin beside `others` that grow, each by a block before long.

        `drafted`: tokens that the draft model is to have before it writes any; 0 if it never does.
        """
        if not others:
            return True
        target, draft = self._target.tables, self._draft.tables
        if drafted and not draft.ample and draft.pool.free < _blocks(self._draft, drafted) + others:
            return False
        needed = _blocks(self._target, len(tokens)) + others
        if target.ample or target.pool.free >= needed:
            return True
        found = self._found(self._target, tokens)
        return target.pool.free >= needed - sum(target.pool.owned(block) for block in found)

    def begin(self, slot: int, call: Prefill) -> Prefill:
        """What is left of a prefill: nothing that others have computed is computed again."""
        model = self._of(call)
        if call.start or model.tables.rows[slot]:
            return call
        count = model.tables.share(slot, self._found(model, call.tokens))
        model.hold(slot, call.tokens[:count])
        return Prefill(call.model, call.tokens[count:], count, call.scored)

    def publish(self, slot: int, call: Prefill, prompt: Sequence[int]) -> None:
        """Let others share what was computed of a prompt; `call` was its prefill."""
        if self._sharing != "off" and call.start < len(prompt):
            model = self._of(call)
            model.tables.publish(slot, self._contents(model, prompt))

    def reserve(self, slot: int, call: Call) -> bool:
        """Blocks for the rows of a pass; False where there are too few."""
        return all(model.tables.reserve(slot, rows) for model, rows in self._rows(call))

    def lacking(self, steps: Sequence[tuple[int, Decode | Extend]]) -> list[int]:
        """Which of these steps, all of one kind, `reserve` would take blocks for."""
        found: set[int] = set()
        for model, rows in self._rows(steps[0][1]) if steps else ():
            more, there = rows - steps[0][1].position, model.tables.rows
            found.update(
                i for i, (slot, call) in enumerate(steps) if call.position + more > there[slot]
            )
        return sorted(found)

    def reserve_ahead(self, steps: Sequence[tuple[int, Call]], running: int) -> None:
        """Blocks for the steps behind these, too, if there are many, or enough for all.

        A changed table is written before a launch, which then waits for those before it: it had
        better change for all at a time. So many as are `running` leave each other room.
        """
        every = [(slot, *need) for slot, call in steps for need in self._rows(call)]
        most = 2 * max(len(every), running) * blocks_of(_AHEAD)
        for slot, model, rows in every:
            if model.tables.ample or model.tables.pool.free > most:
                model.tables.reserve(slot, rows + _AHEAD)

    def forget(self, slot: int) -> None:
        """The slot's answer has ended, or gives way."""
        self._target.forget(slot)
        self._draft.forget(slot)

    def _of(self, call: Prefill) -> Decoder:
        return self._target if call.model == "target" else self._draft

    def _rows(self, call: Call) -> Iterator[tuple[Decoder, int]]:
        """Of each model that writes in a pass, the end of its rows."""
        if isinstance(call, Prefill):
            yield self._of(call), call.start + len(call.tokens)
        elif isinstance(call, Decode):
            yield self._draft, call.position + self._draft.reach
        elif isinstance(call, Extend):
            yield self._target, call.position + self._target.reach
            if self._target.proposes:
                yield self._draft, call.position + self._target.proposes
        elif isinstance(call, Verification):
            yield self._target, call.held

    def _step(self, model: Decoder) -> int:
        return lcm(model.prefills[-1].rows, BLOCK) if self._sharing == "exact" else BLOCK

    def _contents(self, model: Decoder, tokens: Sequence[int]) -> Iterator[bytes]:
        """Of whole steps, without the last token: its row may be computed again.

        As far as they are asked for: of a long prompt that waits they are, before every step.
        """
        step = self._step(model)
        # After a switch there may be passes of another length.
        computed = model.prefills[-1].rows if self._sharing == "exact" else 0
        return contents(tokens[: (len(tokens) - 1) // step * step], computed)

    def _found(self, model: Decoder, tokens: Sequence[int]) -> list[int]:
        if self._sharing == "off":
            return []
        return model.tables.found(self._contents(model, tokens), self._step(model))


def _blocks(model: Decoder, tokens: int) -> int:
    """Of so many tokens and the first step behind them."""
    return blocks_of(min(tokens + model.reach, model.max_len))
