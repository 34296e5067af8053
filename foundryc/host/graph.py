"""A recorded graph: its outputs, its calls, and how long each buffer of it lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from foundryc import accepted
from foundryc.host.buffers import Buffer, Kind, Memory, TensorRef, reference
from foundryc.host.encode import Encoded, Node, references
from foundryc.host.plan import Lifetime
from foundryrt.errors import UsageError


@dataclass
class RecordedGraph:
    """One graph, while and after it is recorded.

    `adopt` takes in memory of the program around it, where the recording does that.
    """

    name: str
    key: dict[str, int | str]
    label: str
    memory: Memory
    adopt: Callable[[torch.Tensor], Buffer] | None = None
    inputs: list[tuple[str, TensorRef]] = field(default_factory=list)
    outputs: list[tuple[str, TensorRef, torch.Tensor]] = field(default_factory=list)
    calls: list[Encoded] = field(default_factory=list)
    offsets: dict[Buffer, int] = field(default_factory=dict)
    scratch: int = 0
    open: bool = True

    def input(self, name: str, tensor: torch.Tensor) -> None:
        """Name memory that was there before this graph, to be written before its launches.

        UsageError outside the graph's `with` block, for a name given twice, or for a tensor that
        the graph made.
        """
        self._check("input", name, tensor)
        buffer = self._find(tensor)
        kinds = (Kind.REGISTERED, Kind.OUTPUT)
        if buffer is None or buffer.kind not in kinds or buffer.graph == self.label:
            raise UsageError(f"{self.label}: input {name!r} is no memory from before this graph")
        if tensor.is_conj() or tensor.is_neg():
            raise UsageError(f"{self.label}: input {name!r} is a conjugate or negative view")
        if buffer.kind is Kind.REGISTERED:
            buffer.role = buffer.role or "input"
        self.inputs.append((name, reference(tensor, buffer)))

    def output(self, name: str, tensor: torch.Tensor) -> None:
        """Name a result of this graph; it keeps its bytes until the graph's next launch.

        The tensor is one that the graph made, a registered one, or a view of either.
        UsageError outside the graph's `with` block or for a name given twice.
        """
        self._check("output", name, tensor)
        plain = tensor.resolve_conj().resolve_neg()
        buffer = self._find(plain)
        if buffer is None or (buffer.kind is Kind.SCRATCH and buffer.graph != self.label):
            raise UsageError(f"{self.label}: output {name!r} was not made by this graph")
        if buffer.kind is Kind.SCRATCH:
            buffer.kind = Kind.OUTPUT
        self.outputs.append((name, reference(plain, buffer), plain))

    def _check(self, what: str, name: str, tensor: torch.Tensor) -> None:
        accepted.name(f"{self.label}: {what}", name)
        accepted.tensor(f"{self.label}: {what} {name!r}", tensor)
        if not self.open:
            raise UsageError(f"{self.label}: name {what} {name!r} inside the graph's with block")
        if name in [known for known, *_ in (*self.inputs, *self.outputs)]:
            raise UsageError(f"{self.label}: two inputs or outputs are named {name!r}")

    def _find(self, tensor: torch.Tensor) -> Buffer | None:
        found = self.memory.find(tensor)
        return self.adopt(tensor) if found is None and self.adopt is not None else found


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
