"""Which graphs a bundle needs before answers do, and which may stand in for others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from foundryrt.protocols import GraphKey
from parse_runtime.kernels.rows import STREAMED_ROWS

Key = Mapping[str, int | str]


def first_graphs(graphs: Iterable[GraphKey], running: int) -> tuple[list[GraphKey], list[GraphKey]]:
    """Those without which `running` answers would stop; and these and others, in order of need.

    They go on with a batch for all of them, and the largest one that stands in for it when there
    are more or fewer. The largest of the other batches come next, which a crowd of new answers
    would wait for, then prefills and verifications: one that has no graph yet waits for it while
    other answers go on. Mixed passes are last: until they are there, their prompts and steps have
    passes of their own.
    """
    passes: dict[str, list[Key]] = {}
    for name, key in graphs:
        passes.setdefault(name, []).append(key)
    needed: list[GraphKey] = []
    largest: list[GraphKey] = []
    others: list[GraphKey] = []
    mixed: list[GraphKey] = []
    for name, keys in passes.items():
        if "batch" not in keys[0]:
            others += ((name, key) for key in keys)
            continue
        if "prompts" in keys[0]:
            mixed += ((name, key) for key in keys)
            continue
        needed.append((name, fitting := _fitting(keys, running)))
        for key in keys:
            if not any(_rows(other) > _rows(key) and stands_in(other, key) for other in keys):
                (needed if stands_in(key, fitting) else largest).append((name, key))
    needed = [graph for i, graph in enumerate(needed) if graph not in needed[:i]]
    return needed, [*needed, *largest, *others, *mixed]


def stands_in(larger: Key, key: Key) -> bool:
    """Whether a larger batch gives the rows of a smaller one the bits that they have in their own.

    Up to STREAMED_ROWS rows all batches do. Beyond, a row agrees to rounding with itself among
    other rows anyhow.
    """
    return (_rows(larger) <= STREAMED_ROWS) == (_rows(key) <= STREAMED_ROWS)


def _rows(key: Key) -> int:
    """Of a batch: its sequences, with as many rows of each as are drafted."""
    return prod(map(int, key.values()))


def _fitting(keys: list[Key], running: int) -> Key:
    """The smallest batch that holds so many, else the largest."""
    rising = sorted(keys, key=_rows)
    return next((key for key in rising if int(key["batch"]) >= running), rising[-1])
