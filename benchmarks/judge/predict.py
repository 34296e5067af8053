"""Speeds of methods from the passes of gathered drafts and what a pass takes: measured or counted.

For pairs that are too large to run, a pass's time follows from the bytes and the operations that
it takes, at the share of bandwidth that passes of `parse_geometry.json` have reached on an H100.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.judge.replay import Course


@dataclass(frozen=True)
class Costs:
    """Seconds of an answer's share in each pass."""

    target_prefill: float
    draft_prefill: float
    target_step: float
    draft_step: float
    extend: float
    """The target's pass over a chain of drafted tokens."""
    verify: float
    """A verification's own,"""
    verify_row: float
    """and each of its rows'."""
    suffix: int
    """Rows of the question at a cut."""
    depth: int = 8
    """Tokens of a chain."""

    def seconds(self, course: Course, speculates: bool) -> float:
        """Of one answer."""
        total = self.target_prefill
        if course.drafted or speculates:
            total += self.draft_prefill
        if course.drafted:
            rows = course.drafted + course.cuts * self.suffix
            total += course.drafted * self.draft_step + self.verify + rows * self.verify_row
        step = self.extend + self.depth * self.draft_step if speculates else self.target_step
        return total + course.passes * step

    def rate(self, courses: Iterable[Course], speculates: bool = False) -> float:
        """Tokens a second."""
        found = list(courses)
        seconds = sum(self.seconds(course, speculates) for course in found)
        return sum(course.tokens for course in found) / seconds


def dense(geometry: dict[str, Any], draft_bytes: float, suffix: int, batch: int) -> Costs:
    """The 14B of `parse_geometry.json` with a small draft model, whose steps are counted.

    A model so small reached 0.48 of the bandwidth there (`moe`), so that is taken for it.
    """
    decode = geometry["decode"]
    bandwidth = decode["copy_bandwidth"]
    step = {row["batch"]: row["seconds_step"] for row in decode["by_batch"]}
    rows = geometry["verify"]["seconds_by_cuts"]
    slope, base = np.polyfit([r["tokens"] for r in rows], [r["one_pass"] for r in rows], 1)
    draft = draft_bytes / (bandwidth * geometry["moe"]["decode_over_bandwidth"])
    prefill = max(base + 64 * slope, step[1])
    return Costs(
        target_prefill=prefill, draft_prefill=draft, target_step=step[batch] / batch,
        draft_step=draft / batch, extend=step[min(32, 9 * batch)] / batch,
        verify=float(base), verify_row=float(slope), suffix=suffix,
    )  # fmt: skip


@dataclass(frozen=True)
class Large:
    """A mixture of experts on several GPUs: bytes that a step and a verification read."""

    step_bytes: float
    whole_bytes: float
    draft_bytes: float
    operations_per_row: float
    bandwidth: float
    """Of all its GPUs, at the share that is reached."""
    operations: float
    """A second, likewise."""

    def costs(self, suffix: int, batch: int) -> Costs:
        """A verification has rows for every expert, and so reads all of them."""
        step, draft = self.step_bytes / self.bandwidth, self.draft_bytes / self.bandwidth
        whole, row = self.whole_bytes / self.bandwidth, self.operations_per_row / self.operations
        # Rows that go to experts of their own read them all from a few on.
        shared = min(whole, step * batch)
        chains = min(whole, step * 9 * batch)
        return Costs(
            target_prefill=whole, draft_prefill=draft, target_step=shared / batch,
            draft_step=draft / batch, extend=chains / batch, verify=whole, verify_row=row,
            suffix=suffix,
        )  # fmt: skip
