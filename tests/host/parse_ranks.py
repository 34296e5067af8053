"""The ranks of a model as threads of one process, over slabs that they share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from foundryc.ranks import Ranks
from foundryrt.bundle.reader import Bundle
from foundryrt.host.backend import HostBackend
from foundryrt.session import Session

Result = TypeVar("Result")
_BOUND_MS = 20_000


def on_ranks(world: int, work: Callable[[Ranks], Result], capacity: int = 4096) -> list[Result]:
    """What `work` gives on each rank, in their order; the first error of any."""
    slabs = torch.zeros(world * 2 * world * capacity, dtype=torch.uint8)

    def run(rank: int) -> Result:
        words = torch.tensor([rank, world, 0, _BOUND_MS], dtype=torch.int32)
        result = work(Ranks(world, words, slabs, capacity))
        assert words.tolist() == [rank, world, 0, _BOUND_MS]
        return result

    with ThreadPoolExecutor(world) as threads:
        running = [threads.submit(run, rank) for rank in range(world)]
        return [each.result() for each in running]


def on_bundle(path: Path, world: int, work: Callable[[Any], Result]) -> list[Result]:
    """What `work` gives with the session of each rank of a bundle, all launched alike."""
    with Bundle.open(path) as bundle:
        backends = [HostBackend(bundle, rank=rank) for rank in range(world)]
        slabs = {rank: backend.export_slab() for rank, backend in enumerate(backends)}
        for rank, backend in enumerate(backends):
            backend.join({other: slab for other, slab in slabs.items() if other != rank})
        with ThreadPoolExecutor(world) as threads:
            found = list(threads.map(lambda b: work(Session(bundle, b, None)), backends))
        for backend in backends:
            backend.close()
    return found
