"""Random numbers in graphs: what torch does around a replay, for launches without it."""

from __future__ import annotations

from ctypes import byref, c_uint64

from foundryrt.bundle.schema import Manifest
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.driver import Driver
from foundryrt.errors import UsageError


class RandomState:
    """Philox seed and offset of a session; each launch uses up as many numbers as torch's replay.

    Launches that draw random numbers must be queued on one stream, as torch's must.
    """

    def __init__(self, manifest: Manifest, arena: Arena, cuda: Driver) -> None:
        if manifest.random is None:
            raise UsageError("the bundle's graphs draw no random numbers")
        self._cuda = cuda
        self._seed_at = arena.address(manifest.tensors[manifest.random.seed])
        self._offset_at = arena.address(manifest.tensors[manifest.random.offset])
        self._steps = [graph.random for graph in manifest.graphs]
        self.seed(manifest.random.initial_seed)

    def seed(self, seed: int) -> None:
        """Set the seed and offset 0, as torch.manual_seed does; UsageError beyond 64 bits."""
        if not -(1 << 63) <= seed < 1 << 64:
            raise UsageError(f"seed {seed}: it must fit in 64 bits")
        self._seed = seed % (1 << 64)
        self._offset = 0

    def advance(self, graph: int, stream: int) -> None:
        """Queue what the next launch of a graph must find, and count what it uses up."""
        if not self._steps[graph]:
            return
        for address, value in ((self._seed_at, self._seed), (self._offset_at, self._offset)):
            # From memory that is not pinned: the driver has read it when the call returns.
            word = c_uint64(value)
            self._cuda("cuMemcpyHtoDAsync_v2", address, byref(word), 8, stream)
        self._offset = (self._offset + self._steps[graph]) % (1 << 64)
