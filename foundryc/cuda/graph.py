"""A captured graph of a cuda recording, and the tensors that have names."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from foundryc import accepted
from foundryc.template import GraphTable
from foundryc.weights import WeightSlice
from foundryrt.errors import UsageError


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of the arena under a name; `graph` is -1 where all graphs share it.

    `slices` say which parts of the user's weight files it is made of; empty where unknown. `most`
    is how many rows it may have in a session, 0 where it does not grow.
    """

    name: str
    role: str
    tensor: torch.Tensor
    graph: int = -1
    slices: tuple[WeightSlice, ...] = ()
    most: int = 0


@dataclass
class RecordedGraph:
    """One graph, while and after it is recorded; `torch_graph` is None for an adopted one."""

    name: str
    key: dict[str, int | str]
    index: int
    inputs: list[NamedTensor] = field(default_factory=list)
    outputs: list[NamedTensor] = field(default_factory=list)
    torch_graph: torch.cuda.CUDAGraph | None = None
    table: GraphTable | None = None
    """Once it was captured, with functions numbered as in the capture."""

    @property
    def named(self) -> list[NamedTensor]:
        """Inputs and outputs."""
        return [*self.inputs, *self.outputs]

    def input(self, name: str, tensor: torch.Tensor) -> None:
        """Name memory from before this graph, to be written before its launches."""
        self._check("input", name, tensor)
        self.inputs.append(NamedTensor(name, "input", tensor, self.index))

    def output(self, name: str, tensor: torch.Tensor) -> None:
        """Name a result of this graph."""
        self._check("output", name, tensor)
        self.outputs.append(NamedTensor(name, "output", tensor, self.index))

    def _check(self, what: str, name: str, tensor: torch.Tensor) -> None:
        accepted.name(f"graph {self.name}: {what}", name)
        accepted.tensor(f"graph {self.name}: {what} {name!r}", tensor)
        if any(known.name == name for known in self.named):
            raise UsageError(f"graph {self.name}: two inputs or outputs are named {name!r}")

    def replay(self) -> None:
        """Launch torch's own exec of the graph, in the capturing process."""
        if self.torch_graph is None:
            raise UsageError(f"graph {self.name} was not captured by torch here: launch your own")
        self.torch_graph.replay()
