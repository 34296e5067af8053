"""A recorded graph: its outputs, its calls, and how long each buffer of it lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from foundryc.host.buffers import Buffer, Kind, Memory, TensorRef, reference
from foundryc.host.encode import Encoded, Node, references
from foundryc.host.plan import Lifetime
from foundryrt.errors import UsageError


@dataclass
class RecordedGraph:
    """One graph, while and after it is recorded."""

    name: str
    key: dict[str, int | str]
    label: str
    memory: Memory
    outputs: list[tuple[str, TensorRef, torch.Tensor]] = field(default_factory=list)
    calls: list[Encoded] = field(default_factory=list)
    offsets: dict[Buffer, int] = field(default_factory=dict)
    scratch: int = 0
    open: bool = True

    def output(self, name: str, tensor: torch.Tensor) -> None:
        """Name a result of this graph; it keeps its bytes until the graph's next launch.

        The tensor is one that the graph made, a registered one, or a view of either.
        UsageError outside the graph's `with` block or for a name given twice.
        """
        if not self.open:
            raise UsageError(f"{self.label}: name output {name!r} inside the graph's with block")
        if any(known == name for known, _, _ in self.outputs):
            raise UsageError(f"{self.label}: two outputs are named {name!r}")
        plain = tensor.resolve_conj().resolve_neg()
        buffer = self.memory.find(plain)
        if buffer is None or (buffer.kind is Kind.SCRATCH and buffer.graph != self.label):
            raise UsageError(f"{self.label}: output {name!r} was not made by this graph")
        if buffer.kind is Kind.SCRATCH:
            buffer.kind = Kind.OUTPUT
        self.outputs.append((name, reference(plain, buffer), plain))


def buffers_of(graph: RecordedGraph) -> dict[Buffer, None]:
    """Buffers of a graph in the order of their first use."""
    used = [buffer for call in graph.calls for _, buffer in call.addresses]
    return dict.fromkeys(used + [ref.buffer for _, ref, _ in graph.outputs])


def lifetimes_of(nodes: Sequence[Node]) -> dict[Buffer, Lifetime]:
    """First and last node of every buffer, in the order of first use."""
    found: dict[Buffer, Lifetime] = {}
    for i, node in enumerate(nodes):
        for ref in references([node.args, node.kwargs, node.results]):
            first = found[ref.buffer].first if ref.buffer in found else i
            found[ref.buffer] = Lifetime(ref.buffer.nbytes, first, i)
    return found


def without_unused(node: Node, index: int, lifetimes: dict[Buffer, Lifetime]) -> Node:
    """`node` without the results that nothing reads."""
    results = tuple(
        None if ref and _is_unused(ref.buffer, index, lifetimes) else ref for ref in node.results
    )
    if results == node.results:
        return node
    for old, new in zip(node.results, results, strict=True):
        if old is not None and new is None:
            lifetimes.pop(old.buffer, None)
    return Node(node.function, node.args, node.kwargs, results)


def _is_unused(buffer: Buffer, index: int, lifetimes: dict[Buffer, Lifetime]) -> bool:
    if buffer.kind is not Kind.SCRATCH or buffer not in lifetimes:
        return buffer.kind is Kind.SCRATCH
    return lifetimes[buffer].first == lifetimes[buffer].last == index
