"""Which graphs a bundle needs before answers do, and which may stand in for others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from foundryrt.protocols import GraphKey
from parse_runtime.kernels.rows import STREAMED_ROWS

Key = Mapping[str, int | str]


def first_graphs(graphs: Iterable[GraphKey], running: int) -> list[GraphKey]:
    """Those without which a pass would wait for its graph, `running` answers' batches first.

    Of batches that is also the largest that stands in for smaller ones. Prefills and verifications
    are all needed: with other rows than their own they would agree to rounding only. Mixed passes
    are not: until they are ready, their prompts and steps have passes of their own.
    """
    passes: dict[str, list[Key]] = {}
    for name, key in graphs:
        if not {"prompts", "batch"} <= key.keys():
            passes.setdefault(name, []).append(key)
    batches = {name: keys for name, keys in passes.items() if "batch" in keys[0]}
    fitting = [(name, _fitting(keys, running)) for name, keys in batches.items()]
    others = [(name, key) for name, keys in passes.items() if name not in batches for key in keys]
    largest = [
        (name, key)
        for name, keys in batches.items()
        for key in keys
        if not any(_rows(other) > _rows(key) and stands_in(other, key) for other in keys)
    ]
    return [*fitting, *others, *(graph for graph in largest if graph not in fitting)]


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
