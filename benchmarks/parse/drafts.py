"""Drafts of several slots that share a verify pass, beside a pass for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.parse.measure import CapturedSession, median_seconds, wall_seconds
from benchmarks.parse.models import Model
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.sizes import PassSizes, SharedSize


@dataclass(frozen=True)
class Drafts:
    """What is judged: half of the rows of a draft are its tokens, half are suffixes."""

    prompt: int = 256
    suffix: int = 32
    rows: tuple[int, ...] = (64, 128, 256)
    """Of each draft."""
    counts: tuple[int, ...] = (2, 4, 8)
    """Drafts that share a pass."""


def shared_verification(model: Model, device: str, given: Drafts) -> Iterator[dict[str, Any]]:
    """For each size and number of drafts: seconds of one pass over all, and of a pass for each.

    `pass` and `passes` are the graphs alone, with evidence of half of the drafted tokens; `wall`
    and `wall_in_turn` have the host's part, too.
    """
    config, parameters = model
    drafted = {rows: rows // 2 for rows in given.rows}
    cuts = {rows: rows // 2 // given.suffix for rows in given.rows}
    slots = max(given.counts)
    sizes = PassSizes(
        max_len=given.prompt + max(drafted.values()), slots=slots, prefill=(given.prompt,),
        decode=(1,), verify=tuple((rows, cuts[rows]) for rows in given.rows),
        scored=tuple(drafted.values()),
        shared=tuple(sorted(
            SharedSize(count * rows, cuts[rows], count)
            for rows in given.rows for count in given.counts
        )),
    )  # fmt: skip
    session = CapturedSession(device)
    likelihood = -torch.rand(slots, sizes.max_len + 1, generator=torch.Generator().manual_seed(0))
    passes = Passes(
        "target", config, parameters, sizes, session.register, asked=0.5,
        draft_likelihood=session.register("draft.likelihood", likelihood, "state"),
    )  # fmt: skip
    session.add(passes)
    target = GraphTarget(session, passes.signature)
    for slot in range(slots):
        target.prefill(slot, list(range(slot, slot + given.prompt)), 0, Sampling())
    for rows in given.rows:
        every = {
            slot: _verification(slot, given, drafted[rows], cuts[rows]) for slot in range(slots)
        }
        one = passes.signature.verify(rows, cuts[rows])
        target.verify(0, every[0])
        for count in given.counts:
            some = {slot: every[slot] for slot in range(count)}
            target.verify_pass(some)
            several = passes.signature.verify(count * rows, cuts[rows], count)
            graph, other = (session.graph(s.graph, **s.key) for s in (several, one))
            yield {
                "rows": rows, "cuts": cuts[rows], "drafts": count,
                "pass": median_seconds(graph.launch),
                "passes": count * median_seconds(other.launch),
                "wall": wall_seconds(lambda t=target, w=some: t.verify_pass(w)),
                "wall_in_turn": wall_seconds(
                    lambda t=target, w=some: [t.verify(slot, v) for slot, v in w.items()]
                ),
            }  # fmt: skip


def _verification(slot: int, given: Drafts, drafted: int, cuts: int) -> Verification:
    tokens = list(range(slot + given.prompt, slot + given.prompt + drafted))
    ends = [given.prompt + drafted * i // cuts for i in range(1, cuts + 1)]
    return Verification(tokens, given.prompt, ends, list(range(given.suffix)), drafted=given.prompt)
