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
    least: float = 0.0
    """Of a verification with few rows: that of reading the weights."""
    depth: int = 8
    """Tokens of a chain."""

    def seconds(self, course: Course, speculates: bool) -> float:
        """Of one answer."""
        if not course.target:
            return self.draft_prefill + course.drafted * self.draft_step
        total = self.target_prefill
        if course.drafted or speculates:
            total += self.draft_prefill
        if course.drafted:
            rows = course.drafted + course.cuts * self.suffix
            verify = max(self.verify + rows * self.verify_row, self.least)
            total += course.drafted * self.draft_step + verify
        step = self.extend + self.depth * self.draft_step if speculates else self.target_step
        return total + course.passes * step

    def rate(self, courses: Iterable[Course], speculates: bool = False) -> float:
        """Tokens a second."""
        found = list(courses)
        seconds = sum(self.seconds(course, speculates) for course in found)
        return sum(course.tokens for course in found) / seconds


def dense(
    geometry: dict[str, Any], draft_bytes: float, suffix: int, batch: int, depth: int
) -> Costs:
    """The 14B of `parse_geometry.json` with a small draft model, whose steps are counted.

    The draft's are at the share of bandwidth that the smallest model there has reached.
    """
    decode = geometry["decode"]
    measured = {row["batch"]: row["seconds_step"] for row in decode["by_batch"]}
    passes = geometry["verify"]["seconds_by_cuts"]
    slope, base = np.polyfit([p["tokens"] for p in passes], [p["one_pass"] for p in passes], 1)

    def step(rows: int) -> float:
        size = min((size for size in measured if size >= rows), default=max(measured))
        return float(max(measured[size], base + rows * slope)) / batch

    reached = decode["copy_bandwidth"] * geometry["moe"]["decode_over_bandwidth"]
    draft, one = draft_bytes / reached, step(1) * batch
    return Costs(
        target_prefill=one, draft_prefill=draft, target_step=step(batch), draft_step=draft / batch,
        extend=step((depth + 1) * batch), verify=float(base), verify_row=float(slope),
        suffix=suffix, least=one, depth=depth,
    )  # fmt: skip


@dataclass(frozen=True)
class Large:
    """A mixture of experts on several GPUs: bytes that a step and a verification read."""

    step_bytes: float
    whole_bytes: float
    draft_bytes: float
    operations_a_row: float
    bandwidth: float
    """Of all its GPUs together, as far as it is reached."""
    operations: float
    """A second, likewise."""

    def costs(self, suffix: int, batch: int, depth: int) -> Costs:
        """Of so many answers at a time. Rows choose experts of their own until all are read."""
        whole, draft = self.whole_bytes / self.bandwidth, self.draft_bytes / self.bandwidth

        def step(rows: int) -> float:
            return min(whole, rows * self.step_bytes / self.bandwidth) / batch

        return Costs(
            target_prefill=whole, draft_prefill=draft, target_step=step(batch),
            draft_step=draft / batch, extend=step((depth + 1) * batch), verify=whole,
            verify_row=self.operations_a_row / self.operations, suffix=suffix, least=whole,
            depth=depth,
        )  # fmt: skip


LARGE = Large(22e9, 235e9, 16.4e9, 44e9, 4 * 3.0e12 * 0.48, 4 * 600e12)
"""Qwen3-235B-A22B in FP8 with Qwen3-8B in bfloat16 on four H100: bytes and operations by their
parameters, the share of bandwidth that the mixture of `parse_geometry.json` reached on one, no
traffic between GPUs."""
