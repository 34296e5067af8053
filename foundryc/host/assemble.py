"""What a host recording has made, laid out in the arena: a Capture."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foundryc.capture import Capture
from foundryc.host.buffers import Buffer, Kind, TensorRef, raw_bytes
from foundryc.host.graph import RecordedGraph, buffers_of
from foundryc.host.layout import Layout, arrange
from foundryc.producer import producer
from foundryc.template import GraphTable
from foundryc.weights import WeightSlice
from foundryrt.bundle.schema import Function, NodeKind, Ranks, Requirements, Tensor


@dataclass(frozen=True)
class Registered:
    """A tensor with a name; `slices` say where its bytes are in files."""

    name: str
    role: str
    ref: TensorRef
    slices: Sequence[WeightSlice]


@dataclass(frozen=True)
class Recorded:
    """Tensors and graphs of a recording, and the memory that they use."""

    tensors: Sequence[Registered]
    graphs: Sequence[RecordedGraph]
    kept: Mapping[Buffer, torch.Tensor]
    """Memory that outlives the recording of a graph."""
    initial: Mapping[Buffer, torch.Tensor]
    """What memory holds when a session begins (bytes), where not zeros."""
    adopted: Sequence[Buffer]
    """Memory of the program that was not registered."""
    ranks: Ranks | None
    slabs: Sequence[Buffer]

    def capture(self, embed_weights: bool) -> Capture:
        """Everything recorded, laid out in the arena."""
        layout = self._arrange(embed_weights)
        functions: dict[str, int] = {}
        tables = [self._table(graph, layout, functions) for graph in self.graphs]
        tensors = [self._tensor(layout, r.name, r.role, r.ref, -1) for r in self.tensors]
        for i, graph in enumerate(self.graphs):
            tensors += [self._tensor(layout, n, "input", ref, i) for n, ref in graph.inputs]
            tensors += [self._tensor(layout, n, "output", ref, i) for n, ref, _ in graph.outputs]
        return Capture(
            target="host",
            requirements=Requirements(
                memory=sum(image.memory for image in layout.images),
                torch=str(torch.__version__).partition("+")[0],
            ),
            producer=producer(
                threads=str(torch.get_num_threads()),
                cpu=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            ),
            regions=layout.images,
            tensors=tensors,
            functions=[Function(name=name) for name in functions],
            graphs=tables,
            slices={
                i: r.slices for i, r in enumerate(self.tensors) if r.slices and not embed_weights
            },
            ranks=self.ranks,
        )

    def _arrange(self, embed_weights: bool) -> Layout:
        in_files = {r.ref.buffer for r in self.tensors if r.slices}
        registered = dict.fromkeys([*(r.ref.buffer for r in self.tensors), *self.adopted])
        weights = [b for b in registered if b.role == "weight"]
        literals = self._constants()
        # What is stored comes first, as one run of bytes.
        own = [b for b in weights if b not in in_files]
        recipes = [b for b in weights if b in in_files]
        # Not with the weights, which bundles of other constants are to share.
        constants = [b for b in registered if b.role == "constant"]
        first = list(dict.fromkeys(literals.values()))
        outputs = [b for g in self.graphs for b in buffers_of(g) if b.kind is Kind.OUTPUT]
        made = dict.fromkeys(outputs)
        stored = own + constants + (recipes if embed_weights else [])
        contents = {b: raw_bytes(self.kept[b]) for b in stored} | {
            b: torch.frombuffer(bytearray(b.data), dtype=torch.uint8) for b in first if b.nbytes
        }
        layout = arrange(
            [
                ("weights", own + recipes),
                ("state", [b for b in registered if b.role in ("state", "")]),
                (
                    "io",
                    [*first, *constants]
                    + [b for b in registered if b.role in ("input", "output")]
                    + list(made),
                ),
                ("symmetric", self.slabs),
            ],
            max((graph.scratch for graph in self.graphs), default=0),
            {**self.initial, **contents},
            embed_weights,
            self.ranks.world if self.ranks else 0,
        )
        for buffer, shared in literals.items():
            layout.addresses[buffer] = layout.addresses[shared]
        return layout

    def _constants(self) -> dict[Buffer, Buffer]:
        """Each literal, and the first one of equal bytes that stands for it."""
        first: dict[bytes, Buffer] = {}
        found: dict[Buffer, Buffer] = {}
        for graph in self.graphs:
            for buffer in buffers_of(graph):
                if buffer.kind is Kind.CONSTANT:
                    found[buffer] = first.setdefault(buffer.data, buffer)
        return found

    def _table(self, graph: RecordedGraph, layout: Layout, functions: dict[str, int]) -> GraphTable:
        parameters = []
        for call in graph.calls:
            words = np.array(call.words, np.uint64)
            for word, buffer in call.addresses:
                if buffer in graph.offsets:
                    words[word] += np.uint64(layout.scratch + graph.offsets[buffer])
                else:
                    words[word] += np.uint64(layout.addresses[buffer])
            parameters.append(words)
        return GraphTable.of_nodes(
            name=graph.name,
            key=graph.key,
            kinds=[NodeKind.OPERATOR] * len(graph.calls),
            functions=[functions.setdefault(c.function, len(functions)) for c in graph.calls],
            skeletons=[call.skeleton for call in graph.calls],
            parameters=parameters,
        )

    def _tensor(self, layout: Layout, name: str, role: str, ref: TensorRef, graph: int) -> Tensor:
        address = layout.addresses[ref.buffer] + ref.offset
        region = layout.region_of(address)
        return Tensor(
            name=name, region=region, offset=address - layout.images[region].base,
            dtype=ref.dtype, shape=ref.sizes, strides=ref.strides, role=role, graph=graph,
        )  # fmt: skip
