"""Which graphs of a bundle have to be ready so that no pass of an answer waits for its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from foundryrt.protocols import GraphKey

Key = Mapping[str, int | str]


def first_graphs(graphs: Iterable[GraphKey], running: int) -> list[GraphKey]:
    """Those of `running` answers' batches, then the largest of each pass.

    A larger graph does for any smaller one, but takes longer (`GraphDecoder`). Of some passes, as
    of verifications with more rows and with more cuts, none is the largest in all sizes: then
    those are meant that no other exceeds.
    """
    passes: dict[str, list[Key]] = {}
    for name, key in graphs:
        passes.setdefault(name, []).append(key)
    fitting = [(name, _batch(keys, running)) for name, keys in passes.items() if "batch" in keys[0]]
    largest = [
        (name, key)
        for name, keys in passes.items()
        for key in keys
        if not any(_exceeds(other, key) for other in keys)
    ]
    return fitting + [graph for graph in largest if graph not in fitting]


def _batch(keys: list[Key], running: int) -> Key:
    """The smallest batch that holds so many, else the largest."""
    rising = sorted(keys, key=lambda key: int(key["batch"]))
    return next((key for key in rising if int(key["batch"]) >= running), rising[-1])


def _exceeds(other: Key, key: Key) -> bool:
    return other != key and all(int(other[size]) >= int(key[size]) for size in key)
