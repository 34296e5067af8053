"""The rows of a pass: what each is, where it is kept, and what it may read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parse_runtime.kernels.gather import chained
from parse_runtime.kernels.plan import places_of, windowed


@dataclass(frozen=True)
class Rows:
    """What the T rows of a pass are, each int64 [T] (docs/parse.md)."""

    tokens: Tensor
    positions: Tensor
    rows: Tensor
    """Row of the slot that a token's key and value are written to."""
    cuts: Tensor
    """Key rows below the cut are seen,"""
    starts: Tensor
    """and those from the start up to the row itself,"""
    slots: Tensor
    """[B], of which T / B rows in turn belong to each."""
    ancestors: Tensor | None = None
    """or, where given, those whose distance from the start is a set bit."""
    lows: Tensor | None = None
    """Where given, key rows below the cut are seen from here on."""
    parts: tuple[Rows, Rows] | None = None
    """Of a mixed pass: rows of steps, and those behind them; these attend by themselves."""

    @staticmethod
    def of(plan: Tensor, slots: Tensor) -> Rows:
        """Rows of slots, from int64 [5, T], as `parse_runtime.signature.plan` makes it."""
        tokens, positions, rows, cuts, starts = plan.unbind(0)
        return Rows(tokens, positions, rows, cuts, starts, slots)

    @staticmethod
    def steps(plan: Tensor, slots: Tensor) -> Rows:
        """One row of each slot, which reads what is below its cut, and itself."""
        tokens, positions, rows, cuts, starts = plan.unbind(0)
        ancestors = torch.ones_like(plan[0])
        return Rows(tokens, positions, rows, cuts, starts, slots, ancestors)

    @staticmethod
    def mixed(plan: Tensor, steps: Tensor, slots: Tensor) -> Rows:
        """One row of each of the slots `steps`, then rows of other `slots`."""
        count = steps.shape[0]
        parts = Rows.steps(plan[:, :count], steps), Rows.of(plan[:, count:], slots)
        each = chained(steps, slots, parts[1].length)
        return replace(Rows.of(plan, each), parts=parts)

    @property
    def length(self) -> int:
        """Rows of a slot."""
        return self.tokens.shape[0] // self.slots.shape[0]

    def windowed(self, window: int) -> Rows:
        """The same rows, which see the last `window` tokens of what they saw, their own included.

        A token below the cut is kept in the row of its position. Ancestors stay: a window is
        longer than drafts are deep.
        """
        if self.parts:
            steps, behind = self.parts
            return replace(self, parts=(steps.windowed(window), behind.windowed(window)))
        lows, starts = windowed(self.positions, self.rows, self.starts, window)
        if self.ancestors is not None:
            return replace(self, lows=lows)
        return replace(self, lows=lows, starts=starts)

    def places(self, rows: int) -> Tensor:
        """The rows in a tensor whose slots, `rows` long, lie end to end."""
        return places_of(self.rows, self.slots, rows)
