"""Graph tables: columns of templates and members, checked before anything indexes with them.

Reading them needs no numpy, whose import would take longer than all the rest of a start.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from operator import le, lt
from typing import TYPE_CHECKING, Literal

import msgspec

from foundryrt.bundle.errors import TableMalformed
from foundryrt.bundle.schema import Column, NodeKind
from foundryrt.printable import quoted

if TYPE_CHECKING:
    import numpy.typing as npt

NO_FUNCTION = 0xFFFFFFFF
_STEP = 1 << 16
"""Nodes that are checked at a time: a set of all could take far more memory than their columns."""
_CALLS = (NodeKind.OPERATOR, NodeKind.KERNEL)
# By the names that the format has for them. Machines with CUDA are little-endian, as the file is.
_CODES: dict[str, Literal["B", "I", "Q"]] = {"u1": "B", "u4": "I", "u8": "Q"}

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
    """The columns of one template (docs/format.md), as read-only views of unsigned integers."""

    kind: memoryview
    function: memoryview
    parameter_start: memoryview
    parameters: memoryview
    skeleton_start: memoryview
    skeleton: memoryview
    edge_from: memoryview
    edge_to: memoryview
    edge_from_port: memoryview
    edge_to_port: memoryview
    edge_type: memoryview
    relocation_word: memoryview
    relocation_region: memoryview

    def check_lengths(self, nodes: int, edges: int) -> None:
        """TableMalformed where a column has not as many entries as it must.

        The rest of `check` takes milliseconds here; the native core does it by itself.
        """
        for name in ("kind", "function"):
            _expect(len(getattr(self, name)) == nodes, f"{name} has not {nodes} entries")
        for name in ("edge_from", "edge_to", "edge_from_port", "edge_to_port", "edge_type"):
            _expect(len(getattr(self, name)) == edges, f"{name} has not {edges} entries")
        for name in ("parameter_start", "skeleton_start"):
            _expect(len(getattr(self, name)) == nodes + 1, f"{name} has not {nodes + 1} entries")
        _expect(
            len(self.relocation_word) == len(self.relocation_region), "relocations do not match"
        )

    def check(self, nodes: int, edges: int, functions: int, regions: int) -> None:
        """TableMalformed where columns contradict each other or the manifest."""
        self.check_lengths(nodes, edges)
        for start in range(0, nodes, _STEP):
            part = slice(start, start + _STEP)
            for kind, function in set(zip(self.kind[part], self.function[part], strict=True)):
                _expect(kind in NodeKind._value2member_map_, "a node is of unknown kind")
                if kind in _CALLS:
                    _expect(function < functions, "a node calls an unknown function")
                else:
                    _expect(function == NO_FUNCTION, "a copy names a function")
        # Nodes are stored in topological order, so a graph cannot hold a cycle.
        _expect(all(map(lt, self.edge_from, self.edge_to)), "an edge goes backwards")
        _expect(max(self.edge_to, default=-1) < nodes, "an edge ends at an unknown node")
        _check_starts("parameter", self.parameter_start, len(self.parameters))
        _check_starts("skeleton", self.skeleton_start, len(self.skeleton))
        rising = all(map(lt, self.relocation_word, self.relocation_word[1:]))
        _expect(rising, "relocations are not in rising order")
        last = max(self.relocation_word, default=-1)
        _expect(last < len(self.parameters), "a relocation is outside the parameters")
        last = max(self.relocation_region, default=-1)
        _expect(last < regions, "a relocation names no region")


class MemberTable(msgspec.Struct, frozen=True):
    """The words of a graph's parameters that differ from its template's."""

    word: memoryview
    value: memoryview

    def check(self) -> None:
        """TableMalformed where a word has no value: native code counts the words alone."""
        _expect(len(self.word) == len(self.value), "word and value differ in length")

    def check_fits(self, words: int) -> None:
        """TableMalformed unless all are among a template's `words` parameter words."""
        # Stored in rising order, so that no word is given twice.
        _expect(all(map(lt, self.word, self.word[1:])), "words are not in rising order")
        _expect(not len(self.word) or self.word[-1] < words, "a word is out of range")

    def apply(self, template: TemplateTable) -> array[int]:
        """All parameter words of the graph, of code Q; TableMalformed if they don't fit."""
        self.check_fits(len(template.parameters))
        words = array("Q", template.parameters.tobytes())
        for word, value in zip(self.word, self.value, strict=True):
            words[word] = value
        return words


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise TableMalformed(f"graph table: {problem}")


def _check_starts(name: str, starts: memoryview, total: int) -> None:
    _expect(starts[0] == 0 and starts[-1] == total, f"{name}_start does not span all")
    _expect(all(map(le, starts, starts[1:])), f"{name}_start falls")


def pack(
    columns: Mapping[str, npt.ArrayLike], kinds: Mapping[str, str]
) -> tuple[dict[str, Column], bytes]:
    """Columns by name and the section's bytes; `kinds` is TEMPLATE_COLUMNS or MEMBER_COLUMNS."""
    import numpy as np

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
) -> dict[str, memoryview]:
    """Columns as views of `data`; TableMalformed for missing, foreign or overlong ones."""
    given = quoted(", ".join(sorted(columns)))
    _expect(set(columns) == set(kinds), f"columns {given}, need {sorted(kinds)}")
    views: dict[str, memoryview] = {}
    for name, kind in kinds.items():
        column = columns[name]
        code = _CODES[kind]
        _expect(column.dtype == kind, f"{name} has dtype {quoted(column.dtype)}, need {kind}")
        _expect(
            column.offset >= 0 and column.offset % 8 == 0 and column.count >= 0,
            f"{name} begins at {column.offset}",
        )
        end = column.offset + column.count * array(code).itemsize
        _expect(end <= len(data), f"{name} reaches beyond its section")
        # A memoryview of no bytes cannot be cast.
        view = data[column.offset : end].cast(code) if column.count else memoryview(array(code))
        views[name] = view.toreadonly()
    return views
