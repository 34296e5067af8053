"""Capturing a workload's graphs on the GPU, with all memory they touch in the arena."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foundryc.cuda import harvest
from foundryc.cuda.arena import BASE, Arena
from foundryc.cuda.extract import CapturedGraph, extract, refuse_strays
from foundryc.weights import WeightSlice
from foundryrt.errors import FoundryError, UsageError

REGION_OF_ROLE = {
    "weight": "weights", "state": "state",
    # Not with the state: initial bytes are a region's prefix, and state may be gigabytes of zeros.
    "constant": "io", "input": "io", "output": "io",
}  # fmt: skip


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of the arena under a name; `graph` is -1 where all graphs share it.

    `pieces` say which parts of the user's weight files it is made of; empty where unknown.
    """

    name: str
    role: str
    tensor: torch.Tensor
    graph: int = -1
    pieces: tuple[WeightSlice, ...] = ()


@dataclass
class RecordedGraph:
    """One captured graph; `replay` runs torch's own exec of it."""

    name: str
    key: dict[str, int | str]
    index: int
    outputs: list[NamedTensor] = field(default_factory=list)
    torch_graph: torch.cuda.CUDAGraph | None = None
    captured: CapturedGraph | None = None

    def output(self, name: str, tensor: torch.Tensor) -> None:
        """Name a result of this graph."""
        if any(output.name == name for output in self.outputs):
            raise UsageError(f"graph {self.name}: two outputs are named {name!r}")
        self.outputs.append(NamedTensor(name, "output", tensor, self.index))

    def replay(self) -> None:
        """Launch the graph in the capturing process."""
        if self.torch_graph is not None:
            self.torch_graph.replay()


def _require_driver() -> None:
    """FoundryError where nothing of CUDA is here; makes no CUDA call: harvest must come first."""
    if torch.version.cuda is None:
        raise FoundryError(
            "no GPU can be used here: this torch is built without CUDA; capture on a machine with"
            " an NVIDIA GPU, or use --target host"
        )
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise FoundryError(
            "no GPU is visible here: there is no NVIDIA driver; capture on a machine with one, or"
            " use --target host"
        ) from None


class CudaRecording:
    """Must be made before the process's first CUDA call; the device is torch's `cuda:device`."""

    def __init__(self, device: int = 0, base: int = BASE) -> None:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise UsageError(
                "CUDA is in use already: make the recorder before the first CUDA call, so that it"
                " sees every kernel binary being loaded"
            )
        _require_driver()
        harvest.start()
        if not torch.cuda.is_available():
            raise FoundryError("no GPU is visible here; capture on one, or use --target host")
        torch.cuda.set_device(device)
        torch.cuda.synchronize()
        self.harvest = harvest.Harvest()
        self.arena = Arena(device, base)
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.tensors: list[NamedTensor] = []
        self.graphs: list[RecordedGraph] = []
        self.initial: dict[int, npt.NDArray[np.uint8]] = {}
        """Arena address -> the bytes that must be there before the first launch."""

    def register(
        self, name: str, tensor: torch.Tensor, role: str, pieces: Iterable[WeightSlice] = ()
    ) -> torch.Tensor:
        """A tensor with the same contents in the arena, to be used from now on."""
        if any(known.name == name for known in self.tensors):
            raise UsageError(f"two tensors are registered as {name!r}")
        placed = self.arena.empty_like(tensor, REGION_OF_ROLE[role])
        placed.copy_(tensor)
        self.tensors.append(NamedTensor(name, role, placed, pieces=tuple(pieces)))
        # Weights don't change and are read when saved; the others hold what they held here.
        if role in ("state", "constant", "input") and bool(placed.count_nonzero()):
            self._remember(placed.data_ptr(), placed.numel() * placed.element_size())
        return placed

    def _remember(self, address: int, size: int) -> None:
        data = self.arena.bytes_at(address, size).cpu().numpy()
        if data.any():
            self.initial[address] = data

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """Run the workload eagerly with its memory in the arena: libraries and caches come up."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), torch.cuda.use_mem_pool(self.arena.pool):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    @contextmanager
    def graph(self, name: str, **key: int | str) -> Iterator[RecordedGraph]:
        """Capture the body as one graph."""
        if not self.graphs:
            torch.cuda.synchronize()
            # No call of cuBLAS relies on what its workspace held, so that of the warm-up is let go:
            # a graph makes its own, and nobody has to save 32 MiB of residue.
            torch._C._cuda_clearCublasWorkspaces()
            for address, size in self.arena.live_blocks():
                self._remember(address, size)
        recorded = RecordedGraph(name, key, len(self.graphs))
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        pool: Any = self.arena.pool.id
        with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="relaxed"):
            yield recorded
        recorded.torch_graph = graph
        recorded.captured = extract(graph.raw_cuda_graph())
        refuse_strays(recorded.captured, self.arena.base, self.arena.end)
        for output in recorded.outputs:
            if self.arena.locate(output.tensor) is None:
                raise FoundryError(
                    f"graph {name}: output {output.name!r} is not in the arena; it must be made by"
                    " the graph or be a registered tensor"
                )
        self.graphs.append(recorded)
