"""An open bundle on a CUDA device."""

from __future__ import annotations

import time
from contextlib import ExitStack
from ctypes import c_void_p
from pathlib import Path

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Tensor
from foundryrt.cuda.device import check_requirements, open_device
from foundryrt.cuda.driver import NON_BLOCKING, driver
from foundryrt.cuda.graphs import Graphs
from foundryrt.cuda.memory import map_regions
from foundryrt.cuda.tensor import DeviceTensor
from foundryrt.cuda.upload import Uploader
from foundryrt.cuda.weights import fill_weights


class CudaBackend:
    """Context, arena and graphs of `bundle`; a failure on the way undoes every earlier step.

    `first` is the index of the graph to make launchable before this returns; the others follow in
    the background. `weights` is the folder of the weight files, where they have moved.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: int = 0,
        first: int | None = None,
        weights: Path | None = None,
    ) -> None:
        self._bundle = bundle
        self.timeline: list[tuple[str, float]] = [("open", time.perf_counter())]
        """Steps of the materialization and when each was done (time.perf_counter, seconds)."""
        cuda = driver()
        with ExitStack() as undo:
            self.device = open_device(cuda, device, undo)
            self._done("context")
            check_requirements(bundle.manifest.requirements, self.device)
            map_regions(cuda, self.device.ordinal, bundle.manifest.regions, undo)
            self._done("arena")
            self.stream = cuda.ask("cuStreamCreate", NON_BLOCKING, kind=c_void_p)
            undo.callback(cuda, "cuStreamDestroy_v2", self.stream)
            self.uploader = Uploader(cuda, self.stream, undo)
            self.graphs = Graphs(bundle, self.device.context)
            undo.callback(self.graphs.close)
            self.graphs.start(first)
            self._initialise()
            if bundle.manifest.weights.recipes:
                fill_weights(bundle.manifest, self.uploader, weights)
            self._done("contents queued")
            if first is not None:
                self.graphs.require(first)
            self._done("first graph")
            self.uploader.finish()
            self._done("contents")
            self._undo = undo.pop_all()

    def _done(self, step: str) -> None:
        self.timeline.append((step, time.perf_counter()))

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

    def close(self) -> None:
        """Free everything the backend made; FoundryError where work still queued has failed."""
        with self._undo:
            self.synchronize()
