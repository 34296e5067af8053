"""Times on the device, passes as CUDA graphs, and the bandwidth that they are held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from parse_runtime.capture.eager import EagerReadback, EagerSession
from parse_runtime.capture.passes import Passes


class CapturedSession(EagerSession):
    """An eager session whose passes become CUDA graphs (torch.cuda.graph) at their first launch.

    Without a GPU they run directly, which only serves to try a benchmark.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device=device)
        self._captured: dict[tuple[str, tuple[tuple[str, int | str], ...]], Any] = {}
        self._pool = torch.cuda.graph_pool_handle() if device == "cuda" else None

    def add(self, passes: Passes) -> None:
        if self._pool is None:
            return super().add(passes)
        for signature, run in passes.graphs():
            key = tuple(sorted(signature.key.items()))
            self._captured[signature.graph, key] = CapturedGraph(run, self._pool)

    @property
    def graphs(self) -> list[tuple[str, Mapping[str, int | str]]]:
        return [*super().graphs, *((name, dict(key)) for name, key in self._captured)]

    def graph(self, name: str, **key: int | str) -> Any:
        if self._pool is None:
            return super().graph(name, **key)
        return self._captured[name, tuple(sorted(key.items()))]


class CapturedGraph:
    """One pass."""

    def __init__(self, run: Callable[[], dict[str, torch.Tensor]], pool: Any) -> None:
        self._run, self._pool = run, pool
        self._graph: torch.cuda.CUDAGraph | None = None

    def ready(self, soon: bool = False) -> bool:
        return True

    def launch(self) -> None:
        if self._graph is None:
            with torch.inference_mode():
                self._run()
                torch.cuda.synchronize()
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, pool=self._pool):
                    self._outputs = self._run()
        self._graph.replay()

    def readback(self, name: str) -> EagerReadback:
        return EagerReadback(lambda: self._outputs[name])

    def read(self, name: str) -> NDArray[Any]:
        return self._outputs[name].cpu().numpy().copy()


def median_seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median device time of a call, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) * 1e-3)
        else:
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def steady_seconds(call: Callable[[], object], seconds: float = 0.2) -> float:
    """Device time of a call among others for so long, behind half as many: clocks have settled."""
    once = median_seconds(call, 1)
    if not torch.cuda.is_available():
        return once
    count = min(max(4, int(seconds / once)), 40)
    for _ in range(count // 2):
        call()
    return median_seconds(lambda: [call() for _ in range(count)], 1) / count


def wall_seconds(call: Callable[[], object]) -> float:
    """Host time of a call, with the device idle before and after."""
    _wait()
    begun = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    size = 1 << 31 if device == "cuda" else 1 << 20
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source))
