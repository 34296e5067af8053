"""Recording on a GPU: torch code as CUDA graphs, with all memory they touch in the arena."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foundryc.capture import Capture
from foundryc.cuda import collection, driver, harvest, proof
from foundryc.cuda.arena import BASE, REGION_OF_ROLE, Arena, is_zero
from foundryc.cuda.binaries import Binaries
from foundryc.cuda.build import Build, OnlyMemory
from foundryc.cuda.extract import CapturedFunction, CapturedGraph, extract, foreign_addresses
from foundryc.cuda.finish import finished
from foundryc.cuda.foreign import ForeignMemory
from foundryc.cuda.graph import NamedTensor, RecordedGraph
from foundryc.cuda.kernels import architecture
from foundryc.cuda.program import Program
from foundryc.cuda.stack import filled
from foundryc.difference import graph_title
from foundryc.elsewhere import calls_ahead, fill, rows
from foundryc.recording import GraphRecording
from foundryc.template import GraphTable
from foundryc.weights import WeightSlice
from foundryrt.bundle.schema import Ranks
from foundryrt.bundle.tables import NO_FUNCTION
from foundryrt.errors import FoundryError, UsageError

_LARGE = 32 << 20
"""Bytes for which torch's allocator makes a block that no other tensor has a part of."""
_SPACER = 70 << 20
"""Bytes; more than what one allocation of torch or a library has been seen to round up to."""


class CudaRecording:
    """Must be made before the process's first CUDA call; the device is torch's `cuda:device`.

    With `moved`, all memory lies elsewhere than without, that of others too. With `compared`, which
    is of captures that are compared with others, an allocation leaves nothing of its own on stacks.
    """

    def __init__(
        self, device: int = 0, base: int = BASE, moved: bool = False, compared: bool = False
    ) -> None:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise UsageError(
                "CUDA is in use already: make the recorder before the first CUDA call, so that it"
                " sees every kernel binary being loaded"
            )
        if torch.version.cuda is None:
            raise FoundryError(
                "no GPU can be used here: this torch is built without CUDA; capture on a machine"
                " with an NVIDIA GPU, or use --target host"
            )
        driver.bindings()
        harvest.start()
        if not torch.cuda.is_available():
            raise FoundryError("no GPU is visible here; capture on one, or use --target host")
        self._compared = compared
        torch.cuda.set_device(device)
        torch.cuda.synchronize()
        harvest.pass_calls(calls_ahead())
        self.harvest = harvest.Harvest()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # A report of foreign memory then names the line that asked for it.
        torch.cuda.memory._record_memory_history("state", stacks="python")
        self.arena = Arena(device, base, moved)
        if moved:
            driver.call("cuMemAlloc", _SPACER)  # never freed: what others ask for lies behind it
        self.foreign = ForeignMemory(self.arena.base, self.arena.end)
        self.binaries = Binaries(self.harvest, self.foreign)
        self.tensors: list[NamedTensor] = []
        self.graphs: list[RecordedGraph] = []
        self.initial: dict[int, npt.NDArray[np.uint8]] = {}
        """Arena address -> the bytes that must be there before the first launch."""
        self.shared_by: Ranks | None = None
        """Processes that run the graphs together, if several do."""
        self._program: Program | None = None
        self._pools: list[torch.cuda.MemPool] = []
        """Of growing tensors, and of programs that have ended: the bundle holds what is in them."""
        self._seen: set[int] = set()
        """Addresses of blocks whose contents were looked at."""

    @property
    def architecture(self) -> str:
        """Of the GPU that records, such as `sm_90`."""
        return architecture(self.arena.device)

    def register(
        self, name: str, tensor: torch.Tensor, role: str, slices: Iterable[WeightSlice] = ()
    ) -> torch.Tensor:
        """A tensor with the same contents in the arena, to be used from now on."""
        self._check_name(name)
        placed = self.arena.empty_like(tensor, REGION_OF_ROLE[role])
        placed.copy_(tensor)
        self.tensors.append(NamedTensor(name, role, placed, slices=tuple(slices)))
        # Weights don't change and are read when saved; the others hold what they held here.
        if role in ("state", "constant", "input"):
            self._remember(placed.data_ptr(), placed.numel() * placed.element_size())
        return placed

    def register_growing(self, name: str, tensor: torch.Tensor, most: int) -> torch.Tensor:
        """State in memory of its own, so that a session may have more rows; see Recorder.register.

        In a capture that shows what depends on the rows it has more of them already, and takes
        memory in the same way: kernels' arguments hold some of what earlier calls leave behind.
        """
        self._check_name(name)
        shape = (rows(tensor.shape[0], most), *tensor.shape[1:])
        size = prod(shape) * tensor.element_size()
        count = max(-(-size // 8), _LARGE // 8)
        # A pool of its own: torch gives out nothing else of its memory.
        pool = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(pool):
            words = torch.zeros(count, dtype=torch.int64, device=self.arena.device)
        placed = words.view(torch.uint8)[:size].view(tensor.dtype).view(shape)
        placed[: tensor.shape[0]].copy_(tensor)
        self._pools.append(pool)
        self.foreign.add(placed, name, filled=bool(tensor.count_nonzero()))
        self.tensors.append(NamedTensor(name, "state", placed, most=most))
        return placed

    def ranks(
        self, world: int, rank: int, words: torch.Tensor, size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Words and slabs of `world` ranks, of which this process is `rank`."""
        words = self.register("ranks", words, "state")
        self.shared_by = Ranks(world=world, words=len(self.tensors) - 1)
        return words, self.arena.slabs(world, size, rank)

    def _check_name(self, name: str) -> None:
        if any(known.name == name for known in self.tensors):
            raise UsageError(f"two tensors are registered as {name!r}")

    def _remember(self, address: int, size: int) -> None:
        data = self.arena.bytes_at(address, size)
        if not is_zero(data):
            self.initial[address] = data.cpu().numpy()

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """Run the workload eagerly with its memory in the arena: libraries and caches come up."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with (
            collection.collected(),
            torch.cuda.stream(self.stream),
            torch.cuda.use_mem_pool(self.arena.pool),
        ):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    @contextmanager
    def program(self) -> Iterator[None]:
        """See Recorder.program."""
        self._program = program = Program(self.arena, self.stream)
        program.begin()
        try:
            yield
        finally:
            program.end()
            self._program = None
            self._pools += program.pools

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """See Recorder.keep."""
        self._check_name(name)
        if self.arena.locate(tensor) is None:
            raise UsageError(
                f"{name}: is not in the arena; keep tensors that the program made on the GPU, in"
                " the thread that records its graphs"
            )
        self.tensors.append(NamedTensor(name, "state", tensor))

    @property
    def pool(self) -> tuple[int, int]:
        """See Recorder.pool."""
        pool: tuple[int, int] = self.arena.pool.id
        return pool

    def given(self, name: str, tensor: torch.Tensor) -> None:
        """See Recorder.given."""
        storage = tensor.untyped_storage()
        if not tensor.is_cuda or not storage.nbytes():
            raise UsageError(f"{name}: only a tensor with memory on the GPU can be given")
        self.foreign.give(name, storage.data_ptr(), storage.nbytes())

    @contextmanager
    def graph(self, name: str, /, **key: int | str) -> Iterator[RecordedGraph]:
        """Capture the body as one graph; in a program it runs, too, as the program expects."""
        if self._program is None:
            with self._captured(name, key) as recorded:
                yield recorded
            return
        with self._program.interrupted(), self._captured(name, key) as recorded:
            yield recorded
        recorded.replay()

    @contextmanager
    def _captured(self, name: str, key: dict[str, int | str]) -> Iterator[RecordedGraph]:
        self._end_warm_up()
        recorded = RecordedGraph(name, key, len(self.graphs))
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        pool: Any = self.arena.pool.id
        with (
            collection.collected(),
            torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="relaxed"),
            filled(fill(), self._compared),
        ):
            yield recorded
        recorded.torch_graph = graph
        self._keep(recorded, graph.raw_cuda_graph())

    @contextmanager
    def build(self, graph: GraphRecording, architecture: str) -> Iterator[Build]:
        """See Recorder.build."""
        if not isinstance(graph, RecordedGraph) or graph.table is None:
            raise UsageError(f"{architecture}: a build is of a graph that has been recorded")
        build = Build(architecture)
        only_memory = OnlyMemory()  # type: ignore[no-untyped-call]
        pool = self.arena.pool
        with torch.cuda.stream(self.stream), torch.cuda.use_mem_pool(pool), only_memory:
            yield build
        table = build.table(graph.name, graph.key, self.binaries.noted)
        called = [CapturedFunction(f.name, 0, 0, -1, False) for f in self.binaries.functions]
        self._follow(CapturedGraph(table.columns, tuple(called)))
        graph.table = replace(graph.table, builds={**graph.table.builds, architecture: table})

    def adopt(
        self, raw_graph: int, outputs: Mapping[str, torch.Tensor], name: str, /, **key: int | str
    ) -> None:
        """Keep the CUgraph with the handle `raw_graph` as one graph; see Recorder.adopt."""
        self._end_warm_up()
        recorded = RecordedGraph(name, key, len(self.graphs))
        for output, tensor in outputs.items():
            recorded.outputs.append(NamedTensor(output, "output", tensor, recorded.index))
        self._keep(recorded, raw_graph)

    def _end_warm_up(self) -> None:
        """What memory holds before the graphs, it must hold in another process."""
        pools = [] if self.graphs else [self.arena.pool]
        pools += [] if self._program is None else self._program.pools
        if not pools:
            return
        torch.cuda.synchronize()
        # No call of cuBLAS relies on what its workspace held, so that of the warm-up is freed:
        # a graph makes its own, and no bundle has to hold 32 MiB of residue.
        torch._C._cuda_clearCublasWorkspaces()
        for pool in pools:
            for address, size in self.arena.live_blocks(pool):
                if address not in self._seen:
                    self._seen.add(address)
                    self._remember(address, size)

    def _keep(self, recorded: RecordedGraph, raw_graph: int) -> None:
        captured = extract(raw_graph)
        self._follow(captured)
        recorded.table = self._table(recorded, captured)
        for named in recorded.named:
            if self.locate(named.tensor) is None:
                raise FoundryError(
                    f"graph {recorded.name}: {named.role} {named.name!r} lies in memory that the"
                    " graph does not use; it must be made by the graph or be a registered tensor"
                )
        self.graphs.append(recorded)

    def _follow(self, graph: CapturedGraph) -> None:
        """Take in the memory of others that a graph is given."""
        self.foreign.follow(foreign_addresses(graph, self.arena.base, self.arena.end))

    def capture(self, embed_weights: bool) -> Capture:
        """Everything recorded; embedded weights are read from the device when they are written."""
        torch.cuda.synchronize()
        collection.done()
        return finished(self, embed_weights)

    def rehearse(self, capture: Capture) -> proof.Rehearsal:
        """What the graphs give here, each with the memory that `capture` begins with.

        Afterwards this process's memory is as the last graph left it.
        """
        return proof.rehearse(self.graphs, capture.regions, capture.random)

    def prove(self, path: Path, rehearsal: proof.Rehearsal) -> None:
        """Run the bundle at `path` elsewhere; proof.Unproved where it gives something else."""
        names = [graph_title(graph.table) for graph in self.graphs if graph.table is not None]
        proof.prove(path, rehearsal.digests, names)

    def locate(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """Number of the region that holds the tensor, and how far in."""
        if (place := self.arena.locate(tensor)) is not None:
            return place
        found = self.foreign.locate(tensor.data_ptr())
        return None if found is None else (len(self.arena.regions) + found[0], found[1])

    def _table(self, recorded: RecordedGraph, captured: CapturedGraph) -> GraphTable:
        """The graph's columns, its functions numbered as in the bundle."""
        local = [self.binaries.index(function) for function in captured.functions]
        lookup = np.array([*local, NO_FUNCTION], np.uint32)
        old = captured.columns["function"]
        columns = captured.columns | {"function": lookup[np.minimum(old, len(local))]}
        return GraphTable(recorded.name, recorded.key, columns)
