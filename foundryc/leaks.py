"""What a bundle still says about the process that captured it: addresses, names, paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from foundryc.difference import graph_title
from foundryc.template import Words
from foundryrt.bundle.reader import Bundle
from foundryrt.printable import quoted

Range = tuple[int, int]

_LOWEST = 1 << 32
"""Below it, any number might be an address of a program without random places."""


def mapped(maps: str, lowest: int = _LOWEST) -> list[Range]:
    """First address and end of what a process had mapped, from the text of its /proc/PID/maps.

    What begins below `lowest` is left out.
    """
    spans = [line.split(maxsplit=1)[0].split("-") for line in maps.splitlines()]
    found = [(int(start, 16), int(end, 16)) for start, end in spans]
    return [(start, end) for start, end in found if start >= lowest]


def leaks(
    path: str | os.PathLike[str], ranges: Sequence[Range], texts: Sequence[str] = ()
) -> list[str]:
    """Each word of the bundle inside one of `ranges`, each section with one of `texts`, in a line.

    Words are the graphs' parameters and, at multiples of 8 bytes, what regions and module variables
    begin with. Texts are looked for in all sections, unpacked. UsageError or BundleError as
    Bundle.open has them.
    """
    with Bundle.open(path) as bundle:
        found = [line for name, words in _words(bundle) for line in _inside(name, words, ranges)]
        for index, section in enumerate(bundle.sections):
            data = bytes(bundle.raw(index))
            found += [f"{section}: {quoted(t)}" for t in texts if t.encode() in data]
    return found


def _words(bundle: Bundle) -> Iterator[tuple[str, Words]]:
    manifest = bundle.manifest
    for index in range(len(manifest.templates)):
        yield f"template {index}", np.asarray(bundle.template(index).parameters, np.uint64)
    for index, graph in enumerate(manifest.graphs):
        words = np.asarray(bundle.member(index).value, np.uint64)
        yield f"graph {graph_title(graph)}, its own words", words
    for region in manifest.regions:
        for part in bundle.initial(region):
            yield f"region {quoted(region.name)} from byte {part.offset}", _of_bytes(part.data)
    for variable in manifest.variables:
        yield f"variable {quoted(variable.name)}", _of_bytes(variable.data)


def _of_bytes(data: bytes | memoryview) -> Words:
    return np.frombuffer(data, np.uint64, len(data) // 8)


def _inside(name: str, words: Words, ranges: Sequence[Range]) -> Iterator[str]:
    for start, end in ranges:
        for at in np.flatnonzero((words >= np.uint64(start)) & (words < np.uint64(end))):
            yield f"{name}, word {at}: {int(words[at]):#x}"
