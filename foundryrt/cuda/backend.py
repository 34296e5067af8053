"""An open bundle on a CUDA device."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from msgspec.structs import replace

from foundryrt.bundle.alike import check_alike, given_regions, refuse_missing
from foundryrt.bundle.builds import architectures, built_for
from foundryrt.bundle.ranks import (
    BOUND_MS,
    MISSING,
    WORDS,
    check_peers,
    check_rank,
    first_words,
    words_tensor,
)
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Tensor
from foundryrt.cuda.arena import Arena, Placing
from foundryrt.cuda.contents import fill
from foundryrt.cuda.device import Device, architecture_of, open_device
from foundryrt.cuda.digest import Digester, Range
from foundryrt.cuda.driver import NON_BLOCKING, driver
from foundryrt.cuda.given import Memory, Shared, memory_of
from foundryrt.cuda.graphs import Graphs
from foundryrt.cuda.randomness import RandomState
from foundryrt.cuda.tensor import DeviceTensor
from foundryrt.cuda.upload import Uploader
from foundryrt.cuda.weights import WeightLoader
from foundryrt.errors import FoundryError, UsageError
from foundryrt.grow import growing_regions
from foundryrt.parallel import Worker
from foundryrt.printable import quoted
from foundryrt.undo import Undo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foundryrt.cuda.pipeline import CudaPipeline
    from foundryrt.cuda.readback import CudaReadback
    from foundryrt.weight_files import FileState


_BRIEF = 4 << 30
"""Bytes of weights that are loaded in some tenths of a second: graphs can wait as long."""


class CudaBackend:
    """Context, arena and graphs of `bundle`; a failure on the way undoes every earlier phase.

    `first` is the index of the graph to make launchable before this returns; the others follow in
    the background, those in `order` first. `weights` is the folder of the weight files, where they
    have moved; with `load_weights=False` they stay zero until `load_weights` is called. `base` is
    where the arena must lie, `place` as for `Session.open`, `rank` which of the bundle's ranks this
    is, `shared` whether it compares the digests of its share of the weights alone.

    `close`, or the end of the last reference, waits for the preparation of weights, the pipelines
    and the stream, ends the graphs' threads and frees graphs, digest kernels, pinned buffers, the
    stream, the arena and the context, in this order.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: int = 0,
        first: int | None = None,
        weights: Path | None = None,
        load_weights: bool = True,
        base: int | None = None,
        place: Mapping[str, object] | None = None,
        rank: int = 0,
        shared: bool = False,
        order: Sequence[int] = (),
    ) -> None:
        check_rank(bundle.manifest, rank)
        self._bundle = bundle
        self._rank = rank
        self._shared = shared
        self._weights = weights
        self.timeline: list[tuple[str, float]] = [("open", time.perf_counter())]
        """Steps of the materialization and when each was done (time.perf_counter, seconds)."""
        self._done = partial(_record, self.timeline)
        self._random: RandomState | None = None
        self._undo = Undo()
        try:
            self._choose_builds(device)
            loads = load_weights and self._has_files and "weights" not in (place or {})
            self._begin_reading(first, order, loads)
            given = given_regions(place or {}, bundle.manifest)
            refuse_missing(place or {}, bundle.manifest)
            self._open_device(device, sum(own.size for own in given if not own.given))
            self._make_arena(base, place or {})
            self._prepare_copies()
            self._begin_graphs()
            self.fill_regions()
            self._begin_random()
            self._done("contents queued")
            self._require_first(first)
            self._begin_weights(load_weights)
            self.graphs.pause(False)
            self.graphs.take_memory()
        except BaseException:
            self._undo.rollback()
            raise

    def _choose_builds(self, ordinal: int) -> None:
        """Where graphs differ by architecture, the manifest is from here on that of this GPU's."""
        if len(architectures(self._bundle.manifest)) > 1:
            cuda = driver()
            here = architecture_of(cuda, cuda.ask("cuDeviceGet", ordinal))
            self._bundle.manifest = built_for(self._bundle.manifest, here)

    def _begin_reading(self, first: int | None, order: Sequence[int], loads: bool) -> None:
        """Graphs are read while the driver is starting."""
        self.graphs = Graphs(self._bundle, first, self._undo, order)
        # Where it has started, the load that comes at once would be slowed down.
        alone = loads and bool(driver.cache_info().currsize)
        self.graphs.pause(alone)
        if not alone:
            self.graphs.take_memory()
        self.graphs.read()

    def _open_device(self, ordinal: int, given: int) -> None:
        cuda = driver()
        self._done("driver")
        needs = self._bundle.manifest.requirements
        needs = replace(needs, memory=needs.memory - given)
        self.device = open_device(cuda, ordinal, needs, self._undo)
        self._done("context")

    def _make_arena(self, base: int | None, place: Mapping[str, object]) -> None:
        manifest = self._bundle.manifest
        self._given = {name: self._memory_of(name, value) for name, value in place.items()}
        placing = Placing(manifest.relocatable, base, self._given, growing_regions(manifest))
        self._arena = Arena(self.device, manifest.regions, self._undo.part(), placing, self._rank)
        self._done("arena")

    def _memory_of(self, name: str, value: object) -> Memory | Shared:
        """What is given for a region: another session's, or a tensor's memory."""
        where = f"region {quoted(name)}"
        if not hasattr(value, "_opened"):
            return memory_of(value, self.device.ordinal, where)
        other = value._opened
        if not isinstance(other, CudaBackend):
            raise UsageError(f"{where}: the other session is closed, or on the host")
        if other.device.ordinal != self.device.ordinal:
            raise UsageError(f"{where}: the other session is on another GPU")
        check_alike(name, self._bundle, other._bundle)
        return Shared(other._arena.mapped(name))

    def _prepare_copies(self) -> None:
        """The stream, and what copies on it; nothing of the device is used yet."""
        self.stream = self.device.cuda.make(self._undo, "cuStreamCreate", NON_BLOCKING)
        self.uploader = Uploader(self.device, self.stream, self._undo.part())
        digester = None
        if self._bundle.manifest.weights.digest_kernel != -1:
            digester = partial(_digester, self._bundle, self.device, self.stream, self._undo.part())
        self._loader = WeightLoader(
            self._bundle.manifest, self._arena, self.uploader, self._undo.part(), digester,
            self._rank, self._shared, self._done,
        )  # fmt: skip

    def _begin_graphs(self) -> None:
        """From here on work is queued, so that closing begins with waiting for it."""
        self._readbacks = self._undo.part()
        self._undo.push(self.graphs.close)  # before its context is released
        # Launches and copies still under way would use what is being freed.
        self._undo.push(partial(_drain, self.device, self.stream))
        self._pipelines: WeakSet[Undo] = WeakSet()
        self._undo.push(partial(_close_all, self._pipelines))
        self.graphs.start(self.device.context, self._arena.deltas)

    def fill_regions(self, but: Collection[str] = ()) -> None:
        """Queue for every region what it held at capture: its saved bytes, the rest zero.

        `but` names regions that stay as they are.
        """
        given = {*but, *self._given}
        fill(self._bundle, self._arena, self.uploader, given)
        words = words_tensor(self._bundle.manifest)
        # Rank 0 begins with what is stored; in another session's memory they are that one's.
        if self._rank and words and self._bundle.manifest.regions[words.region].name not in given:
            self._set_words(*first_words(self._rank))

    def _set_words(self, *words: int) -> None:
        """Queue that this is another rank; see foundryrt/bundle/ranks.py."""
        if (tensor := words_tensor(self._bundle.manifest)) is not None:
            data = memoryview(struct.pack(f"<{WORDS}i", *words))
            self.uploader.copy(self._arena.address(tensor), data)

    def export_slab(self) -> int:
        """See Backend.export_slab; what is queued on the session's stream is done first."""
        slabs = self._arena.slabs
        # Whoever has the descriptor may write: not before there are zeros.
        self.synchronize()
        return slabs.export()

    def join(self, slabs: Mapping[int, int], bound: int = BOUND_MS) -> None:
        """See Backend.join; FoundryError where this GPU cannot reach another one's memory."""
        world = check_peers(self._bundle.manifest, self._rank, slabs)
        self.device.enter()
        self._arena.slabs.join(slabs)
        self._set_words(self._rank, world, 0, bound)
        self.uploader.finish()
        self._done("ranks joined")

    def _begin_random(self) -> None:
        if self._bundle.manifest.random is not None:
            self._random = RandomState(self._bundle.manifest, self._arena, self.device.cuda)

    def _require_first(self, first: int | None) -> None:
        if first is not None:
            self.graphs.require(first)
            self._done("first graph")

    def _begin_weights(self, load: bool) -> None:
        """Load them, or prepare that, but not while a graph that was asked for is being made."""
        self._preparation = Worker()
        self._undo.push(self._preparation.join)
        if load:
            sources = self._bundle.manifest.weights.sources
            brief = sum(source.length for source in sources) <= _BRIEF
            # Both want the driver's lock, and nothing can be launched before the weights are there.
            self.graphs.pause(brief)
            if not brief:
                self.graphs.take_memory()
            if self._loads:
                self.graphs.prefer_first()
            self.load_weights()
        elif self._loads:
            self._preparation.start(partial(_prepare, self._loader))
        self.uploader.finish()
        self._done("contents")

    @property
    def _loads(self) -> bool:
        """Whether there are weights that come from files."""
        return self._has_files and "weights" not in self._given

    @property
    def _has_files(self) -> bool:
        return bool(self._bundle.manifest.weights.recipes)

    def load_weights(self, check: bool = True, states: Sequence[FileState] | None = None) -> None:
        """Fill the weights from their files; `check=False` trusts the files' contents.

        `states`: see RankBackend.load_weights.
        """
        if self._loads:
            self._loader.load(self._weights, check, states)
            self.uploader.finish()
        self._done("weights")

    def ready(self, graph: int | None = None) -> int:
        """How many graphs can be launched at once; of one graph, 1 where it can."""
        return self.graphs.ready if graph is None else int(self.graphs.is_ready(graph))

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Block until every graph can be launched; `progress` gets (ready, all)."""
        self.graphs.wait(progress)
        self._done("all graphs")

    def prefer(self, graph: int) -> None:
        """See Backend.prefer."""
        self.graphs.prefer(graph)

    def prepare(
        self, graphs: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """See Backend.prepare; all graphs are waited for where memory may not suffice for them."""
        self.graphs.prepare(graphs, progress, self._done)
        if self.free_memory() < self.graphs.bytes_left:
            self.graphs.wait(progress)
        self._done("prepared")

    def launch(self, graph: int, stream: int | None = None) -> None:
        """Queue a graph on `stream` (a CUstream, 0 for CUDA's default; else the session's own)."""
        executable = self.graphs.require(graph)
        self.device.enter()
        queue = self.stream if stream is None else stream
        if self._random is not None:
            self._random.advance(graph, queue)
        self.device.cuda("cuGraphLaunch", executable, queue)

    def seed(self, seed: int) -> None:
        """Seed the random numbers; UsageError where no graph draws any."""
        if self._random is None:
            raise UsageError("no graph of this bundle draws random numbers: nothing to seed")
        self._random.seed(seed)

    def abandon(self, rank: int) -> None:
        """See Backend.abandon."""
        if (tensor := words_tensor(self._bundle.manifest)) is not None:
            self.device.write_aside(self._arena.address(tensor) + 4 * MISSING, 1 + rank)

    def synchronize(self) -> None:
        """Wait for the session's stream."""
        self.device.enter()
        self.device.cuda("cuStreamSynchronize", self.stream)

    def free_memory(self) -> int:
        """Bytes of the device that can still be allocated, by any process."""
        self.device.enter()
        return self.device.free_memory()

    def tensor(self, tensor: Tensor) -> DeviceTensor:
        """A tensor of the manifest on the device."""
        return DeviceTensor(
            tensor, self._arena.address(tensor), self.device, self.stream, self._undo
        )

    def read(self, tensor: Tensor) -> NDArray[Any]:
        """A copy of a tensor, after everything queued on the session's stream."""
        return self.tensor(tensor).read()

    def readback(self, tensor: Tensor) -> CudaReadback:
        """Copies of a tensor that do not wait for what is queued later on the session's stream."""
        from foundryrt.cuda.readback import CudaReadback  # not in the way of the first graph

        return CudaReadback(self.tensor(tensor), self._readbacks.part())

    def write(self, tensor: Tensor, values: NDArray[Any]) -> None:
        """Replace the contents of a tensor; UsageError unless shape and dtype agree."""
        self.tensor(tensor).write(values)

    def pipeline(
        self,
        graph: int,
        inputs: Mapping[str, DeviceTensor],
        outputs: Mapping[str, DeviceTensor],
        depth: int,
        lazy: Collection[str],
        timed: bool = False,
    ) -> CudaPipeline:
        """Launches of a graph on streams of their own, after what the session's stream holds."""
        self.synchronize()
        prepare = None if self._random is None else partial(self._random.advance, graph)
        from foundryrt.cuda.pipeline import CudaPipeline  # not in the way of the first graph

        undo = Undo(outlived_by=self._undo)
        self._pipelines.add(undo)
        executable = self.graphs.require(graph)
        return CudaPipeline(
            self.device, executable, prepare, inputs, outputs, depth, lazy, undo, timed
        )

    def close(self) -> None:
        """Free everything the backend made; FoundryError where work still queued has failed."""
        self._undo.close()


# Steps and threads of the session refer to none of its objects that hold its Undo.


def _record(timeline: list[tuple[str, float]], step: str) -> None:
    timeline.append((step, time.perf_counter()))


def _close_all(pipelines: WeakSet[Undo]) -> None:
    for pipeline in list(pipelines):
        pipeline.close()


def _drain(device: Device, stream: int) -> None:
    device.enter()
    device.cuda("cuStreamSynchronize", stream)


def _prepare(loader: WeightLoader) -> None:
    try:
        loader.prepare()
    except FoundryError:
        return  # `load_weights` does what is left, and says it


def _digester(
    bundle: Bundle, device: Device, stream: int, undo: Undo, ranges: Sequence[Range]
) -> Digester:
    kernel = bundle.kernel(bundle.manifest.weights.digest_kernel)
    return Digester(device, stream, bytes(kernel), ranges, undo)
