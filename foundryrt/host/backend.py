"""An open bundle on the host."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib import metadata
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.arrays import as_array, check_array
from foundryrt.bundle.alike import check_alike, given_regions
from foundryrt.bundle.ranks import (
    BOUND_MS,
    MISSING,
    check_peers,
    check_rank,
    first_words,
    slab_region,
    words_tensor,
)
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Tensor
from foundryrt.convert import AnyArray
from foundryrt.errors import FoundryError, UsageError, closed, install
from foundryrt.host.admitted import check_names
from foundryrt.host.arena import Arena, arena_bytes
from foundryrt.host.import_torch import import_torch
from foundryrt.host.pipeline import HostPipeline
from foundryrt.host.readback import HostReadback
from foundryrt.host.weights import load
from foundryrt.parallel import available_threads, processors
from foundryrt.printable import quoted
from foundryrt.sharing import digested_by

if TYPE_CHECKING:
    from foundryrt.host.replay import Tape
    from foundryrt.weight_files import FileState


SHARED = ("weights", "state")
"""Regions that sessions can share; others hold what one launch alone needs."""


class HostBackend:
    """Arena and graphs of `bundle`; torch is imported with the first graph.

    `weights` is the folder of the weight files, where they have moved; `place` as for
    `Session.open`. `rank` is which of the bundle's ranks this process is, `shared` whether it
    compares the digests of its share of the weights alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        weights: Path | None = None,
        load_weights: bool = True,
        place: Mapping[str, object] | None = None,
        rank: int = 0,
        shared: bool = False,
    ) -> None:
        self._bundle = bundle
        self._weights = weights
        self._rank = rank
        self._shared = shared
        self.timeline: list[tuple[str, float]] = [("open", time.perf_counter())]
        """See Backend.timeline."""
        manifest = bundle.manifest
        check_rank(manifest, rank)
        check_names(manifest)
        _check_torch(manifest.requirements.torch)
        self._threads = _threads(manifest.producer.get("threads", "1"))
        self.arena = Arena(arena_bytes(manifest))
        self._slab: int | None = None
        self._tapes: dict[int, Tape] = {}
        self._closed = False
        self._launching = threading.RLock()
        """Held by what writes to the arena: graphs share scratch memory, other sessions regions."""
        _backends.append(weakref.ref(self, _backends.remove))
        self._given = frozenset(place or {})
        self._share(place or {})
        for region in manifest.regions:
            if region.name not in self._given:
                for part in bundle.initial(region):
                    start = region.base + part.offset
                    data = np.frombuffer(part.data, np.uint8)
                    self.arena.bytes[start : start + data.size] = data
        self._begin_alone()
        self._done("contents")
        if load_weights:
            self.load_weights()
            self._done("weights")

    def _done(self, step: str) -> None:
        self.timeline.append((step, time.perf_counter()))

    def _share(self, place: Mapping[str, object]) -> None:
        """Map regions of other sessions."""
        for region in given_regions(place, self._bundle.manifest):
            other = getattr(place[region.name], "_opened", None)
            where = f"region {quoted(region.name)}"
            if not isinstance(other, HostBackend):
                raise UsageError(f"{where}: on the host, give another open session of the host")
            if region.name not in SHARED:
                raise UsageError(f"{where}: on the host, sessions share {' and '.join(SHARED)}")
            check_alike(region.name, self._bundle, other._bundle)
            (others,) = given_regions([region.name], other._bundle.manifest)
            if region.size:
                with other._launching:
                    self.arena.share(region, other.arena, others)

    def _begin_alone(self) -> None:
        tensor = words_tensor(self._bundle.manifest)
        # In another session's memory they are that one's.
        if tensor and self._bundle.manifest.regions[tensor.region].name not in self._given:
            self._set_words(*first_words(self._rank))

    def _set_words(self, *words: int) -> None:
        """Say which rank this is; see foundryrt/bundle/ranks.py."""
        if (tensor := words_tensor(self._bundle.manifest)) is not None:
            self.write(tensor, np.array(words, np.int32))

    def export_slab(self) -> int:
        """A descriptor of the own slab, for the other ranks; the backend closes it.

        UsageError where the bundle is for one process.
        """
        if self._slab is None:
            region = slab_region(self._bundle.manifest)
            slab = self.arena.own_slab(region)
            self.arena.map_slab(region, self._rank, slab)
            self._slab = slab
        return self._slab

    def join(self, slabs: Mapping[int, int], bound: int = BOUND_MS) -> None:
        """Take part from now on; `slabs` are descriptors of all others', by rank.

        Call it after `export_slab`. `bound`: milliseconds after which a rank counts as missing.
        """
        manifest = self._bundle.manifest
        world = check_peers(manifest, self._rank, slabs)
        self.export_slab()
        with self._launching:
            for rank, descriptor in slabs.items():
                self.arena.map_slab(slab_region(manifest), rank, descriptor)
            self._set_words(self._rank, world, 0, bound)
            # Ranks that share processors would else take turns in the middle of exchanges.
            self._threads = min(self._threads, max(1, processors() // world))

    def abandon(self, rank: int) -> None:
        """See Backend.abandon."""
        if (tensor := words_tensor(self._bundle.manifest)) is not None:
            self.tensor(tensor)[MISSING] = 1 + rank  # not `write`: a launch may be waiting

    def load_weights(self, check: bool = True, states: Sequence[FileState] | None = None) -> None:
        """Fill the weights from their files; `check=False` compares only the files' sizes.

        `states`: see RankBackend.load_weights.
        """
        manifest = self._bundle.manifest
        if manifest.weights.recipes and "weights" not in self._given:
            digested = digested_by(manifest, self._rank) if self._shared else None
            with self._launching:
                load(
                    manifest, self._rows, self._weights, check, rank=self._rank, digested=digested,
                    states=states,
                )  # fmt: skip

    def ready(self, graph: int | None = None) -> int:
        """How many graphs are prepared; of one graph, 1 where it is."""
        return len(self._tapes) if graph is None else int(graph in self._tapes)

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Prepare every graph, which imports torch; `progress` gets (ready, all)."""
        total = len(self._bundle.manifest.graphs)
        for graph in range(total):
            with self._launching:
                self.require(graph)
            if progress is not None:
                progress(self.ready(), total)

    def prefer(self, graph: int) -> None:
        """Prepare a graph at once: that takes no longer than a launch."""
        with self._launching:
            self.require(graph)

    def prepare(
        self, graphs: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Prepare every graph, not `graphs` alone: on the host that is what checks them."""
        self.wait(progress)

    def _rows(self, index: int) -> AnyArray:
        tensor = self._bundle.manifest.tensors[index]
        columns = tensor.shape[-1] if tensor.shape else 1
        return self.tensor(tensor).reshape(prod(tensor.shape[:-1]), columns)

    def tensor(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor of the manifest as a view of the arena."""
        base = self._bundle.manifest.regions[tensor.region].base
        return self.arena.array(base + tensor.offset, tensor.shape, tensor.strides, tensor.dtype)

    def read(self, tensor: Tensor) -> NDArray[Any]:
        """A copy of a tensor."""
        return np.array(self.tensor(tensor), order="C")

    def readback(self, tensor: Tensor) -> HostReadback:
        """Copies of a tensor, made at once."""
        return HostReadback(self.tensor(tensor))

    def write(self, tensor: Tensor, values: NDArray[Any]) -> None:
        """Replace the contents of a tensor; UsageError unless shape and dtype agree."""
        view, array = self.tensor(tensor), as_array(tensor.name, values)
        check_array(tensor.name, array, view)
        with self._launching:
            view[...] = array

    def require(self, graph: int) -> Tape:
        """The calls of graph `graph`, prepared; every word of it is checked first."""
        if self._closed:  # by a pipeline, or while another thread launches
            raise closed()
        if graph not in self._tapes:
            import_torch()
            from foundryrt.host.replay import arena_view, prepare

            view = arena_view(self.arena)
            try:
                self._tapes[graph] = prepare(self._bundle, graph, view, self._threads)
            except FoundryError:
                if self._closed:  # meanwhile: it is not the bundle that is wrong
                    raise closed() from None
                raise
        return self._tapes[graph]

    def launch(self, graph: int, stream: int | None = None) -> None:
        """Run a graph to its end, after one that another thread has launched.

        `stream` is for devices and has no meaning here.
        """
        with self._launching:
            self.require(graph).launch()

    def pipeline(
        self,
        graph: int,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        depth: int,
        lazy: Collection[str],
        timed: bool = False,
    ) -> HostPipeline:
        """Launches of a graph, one after another; `lazy` outputs are there as the others are."""
        launch = partial(self.launch, graph)
        return HostPipeline(launch, self._launching, inputs, outputs, depth, timed)

    def seed(self, seed: int) -> None:
        """UsageError: a host bundle draws no random numbers."""
        raise UsageError(f"seed {seed}: the graphs of a host bundle draw no random numbers")

    def free_memory(self) -> None:
        """Of a device there is none."""

    def synchronize(self) -> None:
        """Nothing is ever in flight on the host."""

    def close(self) -> None:
        """Drop the graphs; the arena is freed with the last view of it."""
        self._closed = True
        self._tapes.clear()
        self.arena.close()


_backends: list[weakref.ref[HostBackend]] = []
"""In the order in which they were made."""
_forking: dict[int, list[threading.RLock]] = {}
"""What each thread that forks holds meanwhile."""


def _before_fork() -> None:
    """A launch of another thread ends first: a child would have half of it, and wait forever."""
    locks = [backend._launching for known in _backends if (backend := known()) is not None]
    for lock in locks:
        lock.acquire()
    _forking[threading.get_ident()] = locks


def _after_fork() -> None:
    for lock in _forking.pop(threading.get_ident(), ()):
        lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _check_torch(wanted: str) -> None:
    try:
        here = metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise FoundryError(
            f"a bundle of the host target needs torch (CPU): {install('host')}"
        ) from None
    if wanted.split(".")[:2] != here.partition("+")[0].split(".")[:2]:
        raise FoundryError(
            f"the bundle was captured with torch {wanted}, here is {here}; operators may differ:"
            f" install torch {wanted} or capture again"
        )


def _threads(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 4 or int(text) < 1:
        raise FoundryError(f"damaged bundle: it was recorded with {text[:20]!r} threads")
    return min(int(text), available_threads())
