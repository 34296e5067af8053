"""Where a word of a capture is, in terms that its user knows."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foundryc.capture import Capture
from foundryc.compare.regions import Index, Mask
from foundryc.difference import graph_title
from foundryc.template import LAUNCH_WORDS, GraphTable
from foundryrt.bundle.check import extent
from foundryrt.bundle.schema import DTYPES, Function, NodeKind
from foundryrt.bundle.tables import NO_FUNCTION
from foundryrt.printable import quoted

# foundryrt/native/tables.hpp.
_HEAD, _ARGUMENT = struct.Struct("<IHBB"), struct.Struct("<II")
_SCALAR = 16
"""Bytes of the largest scalar or vector that a kernel takes."""
_KINDS = {NodeKind.MEMCPY: "a copy", NodeKind.MEMSET: "a memset"}


def node_title(table: GraphTable, node: int, functions: Sequence[Function]) -> str:
    """`graph decode[batch=8], node 3, kernel 'add'`."""
    return f"graph {graph_title(table)}, node {node}, {node_work(table, node, functions)}"


def node_work(table: GraphTable, node: int, functions: Sequence[Function]) -> str:
    """`kernel 'add'`, `a copy`."""
    function = int(table.columns["function"][node])
    if function == NO_FUNCTION or function >= len(functions):
        return _KINDS.get(table.columns["kind"][node], "an empty node")
    return f"kernel {quoted(functions[function].name)}"


@dataclass(frozen=True, eq=False)
class GraphPlace:
    """The parameter words of a graph."""

    table: GraphTable
    functions: Sequence[Function]

    def name(self, word: int, byte: int) -> str:
        """Node, kernel, argument and offset in it."""
        node = self._nodes(np.array([word]))[0]
        own = word - int(self.table.columns["parameter_start"][node])
        where = node_title(self.table, int(node), self.functions)
        if self.table.columns["kind"][node] != NodeKind.KERNEL or own < LAUNCH_WORDS:
            return f"{where}: word {own} of its parameters"
        return f"{where}: {self._argument(int(node), 8 * (own - LAUNCH_WORDS) + byte)}"

    def is_fixed(self, words: Index) -> Mask:
        """All but arguments of kernels: the driver fills in the others, and all of them count."""
        nodes = self._nodes(words)
        own = words - self.table.columns["parameter_start"][nodes].astype(np.int64)
        is_kernel: Mask = self.table.columns["kind"][nodes] == NodeKind.KERNEL
        return ~is_kernel | (own < LAUNCH_WORDS)

    def is_argument(self, words: Index) -> Mask:
        """What is not fixed."""
        return ~self.is_fixed(words)

    def may_be_gap(self, words: Index) -> Mask:
        """What lies in structs that kernels take: a scalar or a pointer has no gap."""
        nodes = self._nodes(words)
        own = words - self.table.columns["parameter_start"][nodes].astype(np.int64) - LAUNCH_WORDS
        sizes = [
            self._argument_at(int(node), 8 * int(word))[2] if word >= 0 else 0
            for node, word in zip(nodes, own, strict=True)
        ]
        return np.array(sizes, np.int64) > _SCALAR

    def _nodes(self, words: Index) -> Index:
        return np.searchsorted(self.table.columns["parameter_start"], words, side="right") - 1

    def _argument(self, node: int, byte: int) -> str:
        index, within, size = self._argument_at(node, byte)
        if not size:
            return f"byte {byte} of its arguments, which is in none of them"
        return f"argument {index}, byte {within} of {size}"

    def _argument_at(self, node: int, byte: int) -> tuple[int, int, int]:
        """Of the argument that byte `byte` is in: number, how far in, size; zeros for none."""
        start, end = map(int, self.table.columns["skeleton_start"][node : node + 2])
        skeleton = self.table.columns["skeleton"][start:end].tobytes()
        if len(skeleton) >= _HEAD.size:
            count = _HEAD.unpack_from(skeleton)[1]
            arguments = skeleton[_HEAD.size : _HEAD.size + count * _ARGUMENT.size]
            for index, (offset, size) in enumerate(_ARGUMENT.iter_unpack(arguments)):
                if offset <= byte < offset + size:
                    return index, byte - offset, size
        return 0, 0, 0


@dataclass(frozen=True, eq=False)
class RegionPlace:
    """Words of what a region begins with; its first one is word `start` of the region."""

    capture: Capture
    region: int
    start: int = 0

    def name(self, word: int, byte: int) -> str:
        """The region, and the tensor if the byte belongs to one."""
        at = 8 * (self.start + word) + byte
        image = self.capture.regions[self.region]
        owner = f" of {quoted(image.owner)}" if image.owner else ""
        inside = [name for begin, end, name in self._tensors(()) if begin <= at < end]
        named = f" (tensor {quoted(inside[0])})" if inside else ""
        return f"region {quoted(image.name)}{owner}, byte {at}{named}"

    def is_fixed(self, words: Index) -> Mask:
        """Those of weights and constants: graphs only read them, so what they hold counts."""
        fixed = np.zeros(len(words), bool)
        at = 8 * (self.start + words)
        for begin, end, _ in self._tensors(("weight", "constant")):
            fixed |= (at + 8 > begin) & (at < end)
        return fixed

    def is_argument(self, words: Index) -> Mask:
        """None."""
        return np.zeros(len(words), bool)

    def may_be_gap(self, words: Index) -> Mask:
        """None is known to be."""
        return np.zeros(len(words), bool)

    def _tensors(self, roles: Sequence[str]) -> list[tuple[int, int, str]]:
        """First byte, end and name of the region's tensors of these roles; of all for none."""
        return [
            (t.offset, t.offset + extent(t.shape, t.strides) * DTYPES[t.dtype], t.name)
            for t in self.capture.tensors
            if t.region == self.region and (not roles or t.role in roles)
        ]


@dataclass(frozen=True, eq=False)
class VariablePlace:
    """Words of a module variable."""

    variable: str
    kernel: int

    def name(self, word: int, byte: int) -> str:
        """The variable, its binary and the byte."""
        return f"variable {quoted(self.variable)} of binary {self.kernel}, byte {8 * word + byte}"

    def is_fixed(self, words: Index) -> Mask:
        """None: a variable may hold what no kernel of the bundle reads."""
        return np.zeros(len(words), bool)

    def is_argument(self, words: Index) -> Mask:
        """None."""
        return np.zeros(len(words), bool)

    def may_be_gap(self, words: Index) -> Mask:
        """None is known to be."""
        return np.zeros(len(words), bool)
