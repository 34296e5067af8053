"""Captures of one workload in fresh processes, compared: what is an address, a value, noise.

The first two have their memory at one base, in the third every region was moved by an amount of its
own. A word that moved with a region is an address in it. A byte that differs between the first two
is noise, such as what the host's stack held where a kernel's arguments have gaps. So is one that
differs with the place and follows no region: two captures share bytes of residue, by chance or
because they ran the same code. The rest are values, which are equal in all three.

What no comparison can see: a foreign region lies where each process got it, so a part of an address
in it may look like noise, and be zeroed, if the region lies elsewhere in the second capture. Whole
addresses that the audit missed are found, unaligned and shifted ones too. A bundle is therefore
proved by running it at a further place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from foundryc.capture import Capture
from foundryc.compare.alike import check_alike
from foundryc.compare.contents import settle_region, settle_variable
from foundryc.compare.growth import growths
from foundryc.compare.places import GraphPlace
from foundryc.compare.regions import Regions, audited
from foundryc.compare.words import Settled, settle
from foundryc.template import GraphTable
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted

__all__ = ["compare", "growths", "unclear"]


def compare(a: Capture, again: Capture, moved: Capture) -> Capture:
    """`a` with its addresses confirmed as relocations and its noise zeroed, for any placement.

    `again` was made at the same base in another process, `moved` with every region elsewhere. The
    relocations of all three are what their audit found. Foreign regions get addresses that depend
    on no process. FoundryError names the first thing in which the captures or the audit disagree.
    """
    check_alike(a, again, "at the same base")
    check_alike(a, moved, "with its memory moved")
    captures = (a, again, moved)
    for first, second in zip(a.regions, again.regions, strict=True):
        if not first.owner and first.base != second.base:
            raise FoundryError(
                f"region {quoted(first.name)} lies at {first.base:#x} and {second.base:#x}: the"
                " first two captures need one base, to tell addresses from noise"
            )
    regions = Regions.of(captures)
    return replace(
        a,
        graphs=tuple(
            _settle_graph(captures, regions, tables)
            for tables in zip(*(capture.graphs for capture in captures), strict=True)
        ),
        regions=tuple(settle_region(captures, regions, i) for i in range(len(a.regions))),
        variables=tuple(settle_variable(captures, regions, i) for i in range(len(a.variables))),
        relocatable=True,
    )


def unclear(a: Capture, again: Capture, moved: Capture) -> list[str]:
    """The arguments whose bytes differ with the place alone and follow no region, by name.

    `compare` takes such bytes for noise. Where a bundle fails its proof, one of them may be why.
    """
    captures = (a, again, moved)
    regions = Regions.of(captures)
    found = []
    for tables in zip(*(capture.graphs for capture in captures), strict=True):
        place = GraphPlace(tables[0], a.functions)
        at = _settled(captures, regions, tables).unclear
        found += [place.name(*divmod(int(byte), 8)) for byte in at]
    return found


def _settled(
    captures: Sequence[Capture], regions: Regions, tables: Sequence[GraphTable]
) -> Settled:
    return settle(
        np.stack([table.words for table in tables]),
        np.stack([audited(table) for table in tables]),
        regions,
        GraphPlace(tables[0], captures[0].functions),
    )


def _settle_graph(
    captures: Sequence[Capture], regions: Regions, tables: Sequence[GraphTable]
) -> GraphTable:
    first = tables[0]
    settled = _settled(captures, regions, tables)
    columns = first.columns | {
        "parameters": settled.words,
        "relocation_word": settled.relocated.astype("<u4"),
        "relocation_region": settled.region.astype("<u1"),
    }
    builds = {
        name: _settle_graph(captures, regions, [table.builds[name] for table in tables])
        for name in first.builds
    }
    return replace(first, columns=columns, builds=builds)
