"""Templates: graphs of one topology share it, and each keeps only the words that differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from foundryrt.bundle.schema import NodeKind, Relocation
from foundryrt.bundle.tables import TEMPLATE_COLUMNS
from foundryrt.errors import FoundryError

Words = npt.NDArray[np.uint64]
Columns = dict[str, npt.NDArray[Any]]
"""Columns of docs/format.md, "Graph tables", by name."""

NONE = -1
"""In place of a region's number: an address of no region."""
LAUNCH_WORDS = 4
"""Words of a kernel node before its arguments (foundryrt/native/tables.hpp)."""
_ADDRESSES = {NodeKind.MEMCPY: 2, NodeKind.MEMSET: 1}
"""How many of a node's words, from the first, are addresses."""

EDGE_COLUMNS = ("edge_from", "edge_to", "edge_from_port", "edge_to_port", "edge_type")


class Spans:
    """Where regions lie, to tell which one an address is of."""

    def __init__(self, regions: Iterable[tuple[int, int]]) -> None:
        """`regions`: base and size of each, which do not overlap."""
        spans = np.array([*regions], np.uint64).reshape(-1, 2)
        self._order = np.argsort(spans[:, 0], kind="stable")
        self._bases, self._sizes = spans[self._order].T

    def find(self, words: Words) -> npt.NDArray[np.int64]:
        """For each word, uint64 [n], the number of the region that it is in or at the end of.

        NONE for the others. Where one region begins at another's end, it is the one that begins.
        """
        if not self._bases.size:
            return np.full(words.shape, NONE, np.int64)
        last = np.searchsorted(self._bases, words, side="right") - 1
        inside = (last >= 0) & (words - self._bases[last] <= self._sizes[last])
        return np.where(inside, self._order[last], NONE)


def address_words(columns: Columns) -> npt.NDArray[np.bool_]:
    """Which of a cuda graph's parameter words can be addresses: arguments, and ends of copies."""
    start = columns["parameter_start"].astype(np.int64)
    node = np.repeat(np.arange(len(start) - 1), np.diff(start))
    kind, at = columns["kind"][node], np.arange(start[-1]) - start[node]
    can: npt.NDArray[np.bool_] = (kind == NodeKind.KERNEL) & (at >= LAUNCH_WORDS)
    for other, count in _ADDRESSES.items():
        can |= (kind == other) & (at < count)
    return can


@dataclass(frozen=True, eq=False)
class GraphTable:
    """One captured graph: all columns of a template whose first member it is.

    `function` indexes the capture's functions.
    """

    name: str
    key: dict[str, int | str]
    columns: Columns
    random: int = 0
    """By how much a launch advances the offset of the random numbers."""
    builds: Mapping[str, GraphTable] = field(default_factory=dict)
    """The graph as GPUs of other architectures run it, by their names."""

    @classmethod
    def of_nodes(
        cls,
        name: str,
        key: dict[str, int | str],
        kinds: Sequence[int],
        functions: Sequence[int],
        skeletons: Sequence[bytes],
        parameters: Sequence[Words],
        edges: Sequence[tuple[int, int, int, int, int]] = (),
    ) -> GraphTable:
        """From lists with an entry a node, in topological order.

        `parameters[i]` are the 8-byte words of node i; `edges` are (from, to, from port, to port,
        type).
        """
        rows = np.array(edges, np.uint32).reshape(-1, len(EDGE_COLUMNS))
        words = [np.asarray(own, np.uint64) for own in parameters]
        columns: dict[str, npt.ArrayLike] = {
            "kind": kinds,
            "function": functions,
            "parameter_start": starts([len(own) for own in words]),
            "parameters": np.concatenate([np.zeros(0, np.uint64), *words]),
            "skeleton_start": starts([len(form) for form in skeletons]),
            "skeleton": np.frombuffer(b"".join(skeletons), np.uint8),
            **{name: rows[:, i] for i, name in enumerate(EDGE_COLUMNS)},
            "relocation_word": (),
            "relocation_region": (),
        }
        return cls(
            name,
            key,
            {
                name: np.asarray(columns[name], f"<{kind}")
                for name, kind in TEMPLATE_COLUMNS.items()
            },
        )

    @property
    def nodes(self) -> int:
        """How many nodes it has."""
        return len(self.columns["kind"])

    @property
    def edges(self) -> int:
        """How many edges it has."""
        return len(self.columns["edge_from"])

    @property
    def words(self) -> Words:
        """The parameter words of all nodes, one after another."""
        return self.columns["parameters"]

    def relocated(self, spans: Spans) -> GraphTable:
        """With a relocation for every word that is an address in one of the regions."""
        region = spans.find(self.words)
        region[~address_words(self.columns)] = NONE
        word = np.flatnonzero(region != NONE)
        found = {"relocation_word": word, "relocation_region": region[word]}
        dtypes = {name: np.dtype(f"<{TEMPLATE_COLUMNS[name]}") for name in found}
        columns = {name: own.astype(dtypes[name]) for name, own in found.items()}
        builds = {name: build.relocated(spans) for name, build in self.builds.items()}
        return replace(self, columns=self.columns | columns, builds=builds)

    def topology(self) -> bytes:
        """A digest of all but the words; equal topologies share a template."""
        digest = hashlib.sha256()
        for name, kind in TEMPLATE_COLUMNS.items():
            if name != "parameters":
                data = np.ascontiguousarray(self.columns[name], f"<{kind}").tobytes()
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.digest()


@dataclass(frozen=True, eq=False)
class Member:
    """A graph as the difference to its template: `word` rising and `value`, both [n].

    `builds` are members for other architectures.
    """

    graph: GraphTable
    template: int
    columns: Columns
    builds: Mapping[str, Member]


def relocations(data: npt.NDArray[np.uint8], spans: Spans) -> tuple[Relocation, ...]:
    """The 8-byte words of `data`, uint8 [n], that are addresses in one of the regions."""
    region = spans.find(data[: data.size // 8 * 8].view(np.uint64))
    at = np.flatnonzero(region != NONE)
    return tuple(
        Relocation(offset=8 * int(word), region=int(number))
        for word, number in zip(at, region[at], strict=True)
    )


def starts(lengths: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Offsets of consecutive runs and the end of the last, uint32 [n + 1]."""
    ends = np.cumsum([0, *lengths], dtype=np.uint64)
    if int(ends[-1]) >= 1 << 32:
        raise FoundryError("a graph has more than 2^32 parameter words; split it into several")
    return ends.astype(np.uint32)


def share(graphs: Iterable[GraphTable]) -> tuple[list[GraphTable], list[Member]]:
    """Templates, each the first graph of its topology, and every graph as a member of one."""
    found: dict[bytes, int] = {}
    templates: list[GraphTable] = []

    def member(graph: GraphTable) -> Member:
        index = found.setdefault(graph.topology(), len(templates))
        if index == len(templates):
            templates.append(graph)
        word = np.flatnonzero(graph.words != templates[index].words)
        columns = {"word": word, "value": graph.words[word]}
        builds = {name: member(build) for name, build in graph.builds.items()}
        return Member(graph, index, columns, builds)

    return templates, [member(graph) for graph in graphs]
