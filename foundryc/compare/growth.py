"""Whether a tensor may have more rows than at capture: what of a capture depends on how many.

A further capture has more rows of every growing tensor. What the first three have in common, and it
has otherwise, depends on them. Addresses must lie as far into the same region.

Structs that kernels take have gaps, with residue that the first three may have in common, and a
process that took other sizes of memory has not. Where it seems that something depends on the rows,
one more capture has another number of them: what of a struct is the same in both does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace as changed

import numpy as np
from msgspec.structs import replace

from foundryc.capture import Capture
from foundryc.compare.alike import differences
from foundryc.compare.contents import region_words, variable_words
from foundryc.compare.places import GraphPlace, RegionPlace, VariablePlace
from foundryc.compare.regions import Audit, Mask, audited
from foundryc.compare.words import Place
from foundryc.elsewhere import between
from foundryc.template import GraphTable, Words
from foundryrt.bundle.schema import Growth
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted


def growths(
    a: Capture,
    again: Capture,
    moved: Capture,
    more: tuple[Callable[[], Capture], Callable[[], Capture]],
    progress: Callable[[str], None],
) -> list[Growth]:
    """The growing tensors of `a` with the reason why not, if there is one.

    `more` capture with all rows, and with some of them, if that is needed. What a capture said
    that failed is for `progress`: a bundle names nothing of its machine.
    """
    try:
        grown = more[0]()
        refused = dependence(a, again, moved, grown)
        if refused:
            progress("capturing with another number of rows")
            refused = dependence(a, again, moved, grown, more[1]())
    except FoundryError as error:
        progress(str(error))
        refused = "the capture with more rows failed"
    return [replace(growth, refused=refused) for growth in a.growing]


def dependence(
    a: Capture, again: Capture, moved: Capture, grown: Capture, some: Capture | None = None
) -> str:
    """The first thing of `a` that depends on how many rows growing tensors have; "" for nothing.

    `again` and `moved` are as `compare` has found them; `grown` was made with as many rows as there
    may be, `some` with `between` as many.
    """
    others = [_as_few(a, grown, lambda few, most: most)]
    others += [] if some is None else [_as_few(a, some, between)]
    found = (
        f"with more rows, {difference}" for other in others for difference in differences(a, other)
    )
    return next(found, "") or next(_words((a, again, moved, *others)), "")


def _as_few(a: Capture, grown: Capture, rows_of: Callable[[int, int], int]) -> Capture:
    """`grown` with so many rows less as it ought to have more, and in regions of that size."""
    tensors, regions = list(grown.tensors), list(grown.regions)
    same = len(tensors) == len(a.tensors) and len(regions) == len(a.regions)
    for growth in a.growing if same else ():
        own, more = a.tensors[growth.tensor], tensors[growth.tensor]
        had = own.shape[0]
        rows = [count + had - rows_of(had, growth.most) for count in more.shape[:1]]
        tensors[growth.tensor] = replace(more, shape=(*rows, *more.shape[1:]))
        regions[own.region] = changed(regions[own.region], size=a.regions[own.region].size)
    needs = replace(grown.requirements, memory=a.requirements.memory)
    return changed(grown, tensors=tensors, regions=regions, requirements=needs)


def _words(captures: Sequence[Capture]) -> Iterator[str]:
    """What depends among arguments, first bytes of regions and variables, each that has any."""
    first = captures[0]
    for tables in zip(*(capture.graphs for capture in captures), strict=True):
        yield from _graph_words(captures, tables)
        for name in tables[0].builds:
            yield from _graph_words(captures, [table.builds[name] for table in tables])
    for index in range(len(first.regions)):
        for start, words, found in region_words(captures, index):
            yield from _dependent(captures, words, found, RegionPlace(first, index, start))
    for index, variable in enumerate(first.variables):
        place = VariablePlace(variable.name, variable.kernel)
        yield from _dependent(captures, *variable_words(captures, index), place)


def _graph_words(captures: Sequence[Capture], tables: Sequence[GraphTable]) -> Iterator[str]:
    words, found = np.stack([t.words for t in tables]), np.stack([audited(t) for t in tables])
    yield from _dependent(captures, words, found, GraphPlace(tables[0], captures[0].functions))


def _dependent(
    captures: Sequence[Capture], words: Words, found: Audit, place: Place
) -> Iterator[str]:
    """The first of the words, uint64 [4 or 5, n], that depends; `found` as for `settle`."""
    within = np.stack([_within(captures[c], words[c], found[c]) for c in (0, 3)])
    is_address: Mask = found[0] >= 0
    elsewhere = is_address & ((found[3] != found[0]) | (within[0] != within[1]))
    bytes_of = np.ascontiguousarray(words, "<u8").view(np.uint8).reshape(len(words), -1, 8)
    steady: Mask = (bytes_of[1] == bytes_of[0]) & (bytes_of[2] == bytes_of[0])
    other: Mask = steady & (bytes_of[3] != bytes_of[0]) & ~is_address[:, None]
    some = np.flatnonzero(other.any(axis=1))
    # No number of rows is as large as an address on the host.
    residue = _host_address(words[0, some]) | _host_address(words[3, some])
    residue = np.repeat(residue[:, None], 8, axis=1)
    if len(words) > 4:
        residue |= (bytes_of[4] == bytes_of[3])[some]
    other[some] &= ~(residue & place.may_be_gap(some)[:, None])
    for word in np.flatnonzero(elsewhere | other.any(axis=1))[:1].tolist():
        few, more = (
            _shown(captures[0], int(found[c, word]), int(value))
            for c, value in zip((0, 3), within[:, word], strict=True)
        )
        yield (
            f"{place.name(word, int(other[word].argmax()))} depends on how many there are ({few},"
            f" with more rows {more})"
        )


def _host_address(words: Words) -> Mask:
    """Which of the words lie where Linux puts programs, their heaps, libraries and stacks."""
    upper = words >> np.uint64(32)
    found: Mask = (upper >= np.uint64(0x5500)) & (upper < np.uint64(0x8000))
    return found


def _within(capture: Capture, words: Words, found: Audit) -> Words:
    """The words, those that are addresses as how far into their regions they lie."""
    bases = np.array([*(image.base for image in capture.regions), 0], np.uint64)
    return words - bases[found]  # -1, for none, is the last


def _shown(capture: Capture, region: int, value: int) -> str:
    """A value, or how far into its region an address lies."""
    return f"{quoted(capture.regions[region].name)}+{value:#x}" if region >= 0 else f"{value:#x}"
