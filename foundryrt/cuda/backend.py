"""An open bundle on a CUDA device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from ctypes import c_void_p
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Tensor
from foundryrt.cuda.device import open_device
from foundryrt.cuda.digest import Digester, Range
from foundryrt.cuda.driver import NON_BLOCKING, driver
from foundryrt.cuda.graphs import Graphs
from foundryrt.cuda.memory import map_regions
from foundryrt.cuda.tensor import DeviceTensor
from foundryrt.cuda.upload import Uploader
from foundryrt.cuda.weights import WeightLoader
from foundryrt.errors import FoundryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foundryrt.cuda.pipeline import CudaPipeline


class CudaBackend:
    """Context, arena and graphs of `bundle`; a failure on the way undoes every earlier step.

    `first` is the index of the graph to make launchable before this returns; the others follow in
    the background. `weights` is the folder of the weight files, where they have moved;
    with `load_weights=False` they stay zero until `load_weights` is called.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: int = 0,
        first: int | None = None,
        weights: Path | None = None,
        load_weights: bool = True,
    ) -> None:
        self._bundle = bundle
        self._weights = weights
        self.timeline: list[tuple[str, float]] = [("open", time.perf_counter())]
        """Steps of the materialization and when each was done (time.perf_counter, seconds)."""
        with ExitStack() as undo:
            self.graphs = Graphs(bundle, first)
            early = undo.enter_context(ExitStack())
            early.callback(self.graphs.close)
            self.graphs.read()  # while the driver is starting
            cuda = driver()
            self._done("driver")
            self.device = open_device(cuda, device, bundle.manifest.requirements, undo)
            self._done("context")
            map_regions(cuda, self.device.ordinal, bundle.manifest.regions, undo)
            self._done("arena")
            self.stream = cuda.ask("cuStreamCreate", NON_BLOCKING, kind=c_void_p)
            undo.callback(cuda, "cuStreamDestroy_v2", self.stream)
            self.uploader = Uploader(self.device, self.stream, undo.enter_context(ExitStack()))
            self._for_digests = undo.enter_context(ExitStack())
            digester = None if bundle.manifest.weights.digest_kernel == -1 else self._digester
            self._loader = WeightLoader(bundle.manifest, self.uploader, digester)
            # Copies still under way would read buffers that are being freed.
            undo.callback(self._drain)
            undo.callback(self.graphs.close)
            early.pop_all()  # closed here, and never after the context
            self._preparation = threading.Thread(target=self._prepare)
            undo.callback(self._end_preparation)
            self.graphs.start(self.device.context)
            self._initialise()
            self._done("contents queued")
            if first is not None:
                self.graphs.require(first)
                self._done("first graph")
            if load_weights:
                self.load_weights()
            elif bundle.manifest.weights.recipes:
                self._preparation.start()
            self.uploader.finish()
            self._done("contents")
            self._undo = undo.pop_all()

    def _prepare(self) -> None:
        """Prepare the loading of weights, but not while the first graph is on its way."""
        try:
            self._loader.prepare()
        except FoundryError:
            return  # `wait` or `load_weights` says it: the latter does what is left

    def _end_preparation(self) -> None:
        if self._preparation.is_alive():
            self._preparation.join()

    def _digester(self, ranges: Sequence[Range]) -> Digester:
        kernel = self._bundle.kernel(self._bundle.manifest.weights.digest_kernel)
        return Digester(self.device, self.stream, bytes(kernel), ranges, self._for_digests)

    def _done(self, step: str) -> None:
        self.timeline.append((step, time.perf_counter()))

    def _drain(self) -> None:
        try:
            self.synchronize()
        except FoundryError:
            return  # what failed before, or the work that was queued, is what the caller hears of

    def load_weights(self, check: bool = True) -> None:
        """Fill the weights from their files; `check=False` trusts the files' contents."""
        if self._bundle.manifest.weights.recipes:
            self._loader.load(self._weights, check)
            self.uploader.finish()
        self._done("weights")

    def ready(self, graph: int | None = None) -> int:
        """How many graphs can be launched at once; of one graph, 1 where it can."""
        return self.graphs.ready if graph is None else int(self.graphs.is_ready(graph))

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Block until every graph can be launched; `progress` gets (ready, all)."""
        self.graphs.wait(progress)
        self._done("all graphs")

    def _initialise(self) -> None:
        """Every region as it was at capture: its saved bytes, the rest zero."""
        for region in self._bundle.manifest.regions:
            saved = 0
            if region.section != -1:
                data = self._bundle.raw(region.section)
                saved = len(data)
                self.uploader.copy(region.base, data)
            if region.size > saved:
                self.device.cuda(
                    "cuMemsetD8Async", region.base + saved, 0, region.size - saved, self.stream
                )

    def launch(self, graph: int, stream: int | None = None) -> None:
        """Queue a graph on `stream` (a CUstream; the session's own by default)."""
        executable = self.graphs.require(graph)
        self.device.enter()
        self.device.cuda("cuGraphLaunch", executable, stream or self.stream)

    def synchronize(self) -> None:
        """Wait for the session's stream."""
        self.device.enter()
        self.device.cuda("cuStreamSynchronize", self.stream)

    def tensor(self, tensor: Tensor) -> DeviceTensor:
        """A tensor of the manifest on the device."""
        region = self._bundle.manifest.regions[tensor.region]
        return DeviceTensor(tensor, region.base + tensor.offset, self.device, self.stream)

    def read(self, tensor: Tensor) -> NDArray[Any]:
        """A copy of a tensor, after everything queued on the session's stream."""
        return self.tensor(tensor).read()

    def write(self, tensor: Tensor, values: NDArray[Any]) -> None:
        """Replace the contents of a tensor; UsageError unless shape and dtype agree."""
        self.tensor(tensor).write(values)

    def pipeline(
        self,
        graph: int,
        inputs: Mapping[str, DeviceTensor],
        outputs: Mapping[str, DeviceTensor],
        depth: int,
    ) -> CudaPipeline:
        """Launches of a graph on streams of their own, after what the session's stream holds."""
        self.synchronize()
        launch = partial(self.launch, graph)
        from foundryrt.cuda.pipeline import CudaPipeline  # not in the way of the first graph

        return CudaPipeline(self.device, launch, inputs, outputs, depth)

    def close(self) -> None:
        """Free everything the backend made; FoundryError where work still queued has failed."""
        with self._undo:
            self.synchronize()
