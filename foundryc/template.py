"""Templates: graphs of one topology share it, and each keeps only the words that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from foundryrt.errors import FoundryError

Words = npt.NDArray[np.uint64]

EDGE_COLUMNS = ("edge_from", "edge_to", "edge_from_port", "edge_to_port", "edge_type")


@dataclass(frozen=True)
class GraphTable:
    """One captured graph in the form of docs/format.md, "Graph tables"; nodes in order.

    `functions` index the manifest's; `parameters[i]` are the 8-byte words of node i, `edges` are
    (from, to, from port, to port, type).
    """

    name: str
    key: dict[str, int | str]
    kinds: Sequence[int]
    functions: Sequence[int]
    skeletons: Sequence[bytes]
    parameters: Sequence[Words]
    edges: Sequence[tuple[int, int, int, int, int]] = ()

    def topology(self) -> tuple[object, ...]:
        """All but the words; equal topologies share a template."""
        return (
            tuple(self.kinds),
            tuple(self.functions),
            tuple(self.skeletons),
            tuple(len(words) for words in self.parameters),
            tuple(self.edges),
        )

    def words(self) -> Words:
        """The parameter words of all nodes, one after another."""
        if not len(self.parameters):
            return np.zeros(0, np.uint64)
        return np.concatenate([np.asarray(p, np.uint64) for p in self.parameters])

    def columns(self) -> dict[str, npt.ArrayLike]:
        """The columns of a template whose first member is this graph."""
        edges = np.array(self.edges, np.uint32).reshape(-1, len(EDGE_COLUMNS))
        skeleton = b"".join(self.skeletons)
        return {
            "kind": np.array(self.kinds, np.uint8),
            "function": np.array(self.functions, np.uint32),
            "parameter_start": starts([len(words) for words in self.parameters]),
            "parameters": self.words(),
            "skeleton_start": starts([len(form) for form in self.skeletons]),
            "skeleton": np.frombuffer(skeleton, np.uint8),
            **{name: edges[:, i] for i, name in enumerate(EDGE_COLUMNS)},
            "relocation_word": np.zeros(0, np.uint32),
            "relocation_region": np.zeros(0, np.uint8),
        }


@dataclass(frozen=True)
class Member:
    """A graph as the difference to its template: `word` uint32 rising, `value` uint64."""

    table: GraphTable
    template: int
    columns: dict[str, npt.ArrayLike] = field(default_factory=dict)


def starts(lengths: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Offsets of consecutive runs and the end of the last, uint32 [n + 1]."""
    ends = np.cumsum([0, *lengths], dtype=np.uint64)
    if int(ends[-1]) >= 1 << 32:
        raise FoundryError("a graph has more than 2^32 parameter words; split it into several")
    return ends.astype(np.uint32)


def share(graphs: Sequence[GraphTable]) -> tuple[list[GraphTable], list[Member]]:
    """Templates, each the first graph of its topology, and every graph as a member of one."""
    found: dict[tuple[object, ...], int] = {}
    templates: list[GraphTable] = []
    members = []
    for graph in graphs:
        topology = graph.topology()
        index = found.setdefault(topology, len(templates))
        if index == len(templates):
            templates.append(graph)
        own = graph.words()
        word = np.flatnonzero(own != templates[index].words())
        members.append(Member(graph, index, {"word": word, "value": own[word]}))
    return templates, members
