"""Graph tables: columns of templates and members, checked before anything indexes with them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from foundryrt.bundle.errors import TableMalformed
from foundryrt.bundle.schema import Column, NodeKind

Array = npt.NDArray[np.unsignedinteger]
NO_FUNCTION = 0xFFFFFFFF

TEMPLATE_COLUMNS = {
    "kind": "u1",
    "function": "u4",
    "parameter_start": "u4",
    "parameters": "u8",
    "skeleton_start": "u4",
    "skeleton": "u1",
    "edge_from": "u4",
    "edge_to": "u4",
    "edge_from_port": "u1",
    "edge_to_port": "u1",
    "edge_type": "u1",
    "relocation_word": "u4",
    "relocation_region": "u1",
}
MEMBER_COLUMNS = {"word": "u4", "value": "u8"}


class TemplateTable(msgspec.Struct, frozen=True):
    """The columns of one template (docs/format.md); arrays are read-only views."""

    kind: Array
    function: Array
    parameter_start: Array
    parameters: Array
    skeleton_start: Array
    skeleton: Array
    edge_from: Array
    edge_to: Array
    edge_from_port: Array
    edge_to_port: Array
    edge_type: Array
    relocation_word: Array
    relocation_region: Array

    def check(self, nodes: int, edges: int, functions: int, regions: int) -> None:
        """TableMalformed where columns contradict each other or the manifest."""
        for name in ("kind", "function"):
            _expect(len(getattr(self, name)) == nodes, f"{name} has not {nodes} entries")
        for name in ("edge_from", "edge_to", "edge_from_port", "edge_to_port", "edge_type"):
            _expect(len(getattr(self, name)) == edges, f"{name} has not {edges} entries")
        kinds = np.isin(self.kind, [int(kind) for kind in NodeKind])
        _expect(bool(kinds.all()), "a node is of unknown kind")
        calls = np.isin(self.kind, [NodeKind.OPERATOR, NodeKind.KERNEL])
        _expect(bool((self.function[calls] < functions).all()), "a node calls an unknown function")
        _expect(bool((self.function[~calls] == NO_FUNCTION).all()), "a copy names a function")
        # Nodes are stored in topological order, so a graph cannot hold a cycle.
        _expect(bool((self.edge_from < self.edge_to).all()), "an edge goes backwards")
        _expect(bool((self.edge_to < nodes).all()), "an edge ends at an unknown node")
        _check_starts("parameter", self.parameter_start, nodes, len(self.parameters))
        _check_starts("skeleton", self.skeleton_start, nodes, len(self.skeleton))
        _expect(
            len(self.relocation_word) == len(self.relocation_region), "relocations do not match"
        )
        _expect(
            bool((self.relocation_word < len(self.parameters)).all()),
            "a relocation is outside the parameters",
        )
        _expect(bool((self.relocation_region < regions).all()), "a relocation names no region")


class MemberTable(msgspec.Struct, frozen=True):
    """The words of a graph's parameters that differ from its template's."""

    word: Array
    value: Array

    def apply(self, template: TemplateTable) -> Array:
        """All parameter words of the graph, uint64 [words]; TableMalformed if they don't fit."""
        _expect(len(self.word) == len(self.value), "word and value differ in length")
        # Stored in rising order, so that no word is given twice.
        _expect(bool((self.word[:-1] < self.word[1:]).all()), "words are not in rising order")
        words = template.parameters.copy()
        _expect(not len(self.word) or int(self.word[-1]) < len(words), "a word is out of range")
        words[self.word] = self.value
        return words


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise TableMalformed(f"graph table: {problem}")


def _check_starts(name: str, starts: Array, nodes: int, total: int) -> None:
    _expect(len(starts) == nodes + 1, f"{name}_start has not {nodes + 1} entries")
    _expect(int(starts[0]) == 0 and int(starts[-1]) == total, f"{name}_start does not span all")
    _expect(bool((starts[:-1] <= starts[1:]).all()), f"{name}_start falls")


def pack(
    columns: Mapping[str, npt.ArrayLike], kinds: Mapping[str, str]
) -> tuple[dict[str, Column], bytes]:
    """Columns by name and the section's bytes; `kinds` is TEMPLATE_COLUMNS or MEMBER_COLUMNS."""
    _expect(set(columns) == set(kinds), f"columns {sorted(columns)}, need {sorted(kinds)}")
    data = bytearray()
    table = {}
    for name, kind in kinds.items():
        values = np.ascontiguousarray(columns[name], dtype=f"<{kind}")
        table[name] = Column(dtype=kind, offset=len(data), count=values.size)
        data += values.tobytes()
        data += bytes(-len(data) % 8)
    return table, bytes(data)


def unpack(
    columns: Mapping[str, Column], kinds: Mapping[str, str], data: memoryview
) -> dict[str, Array]:
    """Read-only arrays over `data`; TableMalformed for missing, foreign or overlong columns."""
    _expect(set(columns) == set(kinds), f"columns {sorted(columns)}, need {sorted(kinds)}")
    arrays: dict[str, Array] = {}
    for name, kind in kinds.items():
        column = columns[name]
        dtype = np.dtype(f"<{kind}")
        _expect(column.dtype == kind, f"{name} has dtype {column.dtype}, need {kind}")
        _expect(
            column.offset >= 0 and column.offset % 8 == 0 and column.count >= 0,
            f"{name} begins at {column.offset}",
        )
        end = column.offset + column.count * dtype.itemsize
        _expect(end <= len(data), f"{name} reaches beyond its section")
        array = np.frombuffer(data[column.offset : end], dtype)
        array.flags.writeable = False
        arrays[name] = array
    return arrays
