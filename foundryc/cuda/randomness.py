"""Random numbers in graphs: where torch's generator keeps its state, and what a launch consumes.

A captured kernel reads Philox seed and offset from two tensors that torch fills before it replays a
graph; afterwards torch advances the offset by what the graph consumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from foundryc.cuda import driver
from foundryc.cuda.extract import extract, foreign_addresses
from foundryc.cuda.graph import RecordedGraph
from foundryc.cuda.rerun import only
from foundryrt.bundle.schema import Random
from foundryrt.errors import FoundryError

_SEED, _OFFSET = 0x5EED_0F0F_1234_5679, 0x0FF5_E7C0
"""Values that nothing else is likely to hold; Philox offsets are multiples of 4."""


@dataclass(frozen=True)
class Generator:
    """Addresses of the state of torch's default generator, and the seed that it had."""

    seed: int
    offset: int
    initial_seed: int

    @property
    def places(self) -> dict[str, int]:
        """The addresses, by the names that bundles have for them."""
        return {"random.seed": self.seed, "random.offset": self.offset}

    def described(self, first: int) -> Random:
        """For a bundle whose tensor number `first` is the seed, the next one the offset."""
        return Random(seed=first, offset=first + 1, initial_seed=self.initial_seed)

    def drawn(self, graph: RecordedGraph, device: torch.device) -> int:
        """By how much a launch advances the offset; FoundryError where that cannot be known."""
        if graph.table is None or self.offset not in graph.table.words:
            return 0
        if graph.torch_graph is None:
            raise FoundryError(
                f"graph {graph.name} draws random numbers, and was captured by other code: how many"
                " is not known; capture it in the recorder's `graph`"
            )
        return consumed(graph.torch_graph, device)


def find_generator(device: torch.device, stream: torch.cuda.Stream) -> Generator:
    """Where graphs read the default generator's state, as long as one of them exists.

    A graph of its own that draws a number shows it: torch has all graphs share the tensors.
    """
    probe = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(probe, stream=stream, capture_error_mode="relaxed"):
        torch.rand(1, device=device)
    addresses = foreign_addresses(extract(probe.raw_cuda_graph()), 0, 0)
    with _state(device, _SEED, _OFFSET):
        probe.replay()
        torch.cuda.synchronize()
        held = {_word(address): address for address in addresses}
    if _SEED not in held or _OFFSET not in held:
        raise FoundryError(
            "this torch keeps the state of its random numbers where it was not found; take"
            " randomness out of the captured code"
        )
    return Generator(held[_SEED], held[_OFFSET], _default(device).initial_seed() % (1 << 64))


def consumed(graph: torch.cuda.CUDAGraph, device: torch.device) -> int:
    """By how much a launch of the graph advances the offset; the graph's work is not done.

    FoundryError where a part of the graph cannot be left out.
    """
    graph.instantiate()
    with only(graph, 0), _state(device, 0, 0) as generator:
        graph.replay()
        torch.cuda.synchronize()
        return _seed_and_offset(generator)[1]


def _default(device: torch.device) -> torch.Generator:
    generator: torch.Generator = torch.cuda.default_generators[device.index]
    return generator


@contextmanager
def _state(device: torch.device, seed: int, offset: int) -> Iterator[torch.Generator]:
    """The default generator with this state in the block."""
    generator = _default(device)
    before = generator.get_state()
    generator.set_state(torch.tensor([seed, offset]).view(torch.uint8))
    try:
        yield generator
    finally:
        generator.set_state(before)


def _seed_and_offset(generator: torch.Generator) -> tuple[int, int]:
    seed, offset = generator.get_state().view(torch.int64).tolist()
    return seed, offset


def _word(address: int) -> int:
    data = np.zeros(1, np.uint64)
    driver.call("cuMemcpyDtoH", data.ctypes.data, address, 8, about="random state")
    return int(data[0])
