"""Launches one after another, with the calls that a device's pipeline has."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import closed
from foundryrt.pipeline import (
    check_inputs,
    check_part,
    check_size,
    check_slot,
    input_named,
    untimed,
)

if TYPE_CHECKING:
    from ctypes import c_int64

    from foundryrt.pipeline import Arrays


class HostPipeline:
    """See `Pipeline`; nothing runs in the background: `submit` runs the graph to its end.

    `launching` is held meanwhile, so that no other launch uses the same memory.
    """

    def __init__(
        self,
        launch: Callable[[], None],
        launching: AbstractContextManager[object],
        inputs: Arrays,
        outputs: Arrays,
        depth: int,
        timed: bool = False,
    ) -> None:
        self.depth = depth
        self._timed = timed
        self._launch = launch
        self._launching = launching
        self._inputs = inputs
        self._outputs = outputs
        self._closed = False
        self._began = time.perf_counter()
        self._moments = [(0.0, 0.0, 0.0)] * depth
        self._results = [
            {name: np.empty(view.shape, view.dtype) for name, view in outputs.items()}
            for _ in range(depth)
        ]

    def staging(self, name: str) -> NDArray[Any]:
        view = input_named(name, self._inputs)
        return np.empty(view.shape, view.dtype)

    def memory(self, size: int, ahead: bool = False) -> NDArray[np.uint8]:
        return np.empty(check_size(size), np.uint8)

    def upload(self, values: NDArray[Any]) -> None:
        """`submit` reads them where they are."""
        check_part(values)

    def submit(self, slot: int, values: Arrays) -> None:
        self._check(slot)
        check_inputs(values, self._inputs)
        with self._launching:
            for name, view in self._inputs.items():
                view[...] = values[name]
            arrived = time.perf_counter()
            self._launch()
            computed = time.perf_counter()
            for name, view in self._outputs.items():
                self._results[slot][name][...] = view
        ends = arrived, computed, time.perf_counter()
        first, second, last = (at - self._began for at in ends)
        self._moments[slot] = first, second, last

    def done(self, slot: int) -> bool:
        self._check(slot)
        return True

    def idle(self, slot: int | None, word: c_int64, seen: int, seconds: float) -> None:
        time.sleep(0)

    def wait(self, slot: int) -> Arrays:
        self._check(slot)
        return self._results[slot]

    def moments(self, slot: int) -> tuple[float, float, float]:
        if not self._timed:  # as on a device, where times cost something
            raise untimed()
        self._check(slot)
        return self._moments[slot]

    def _check(self, slot: int) -> None:
        if self._closed:
            raise closed("the pipeline")
        check_slot(slot, self.depth)

    def close(self) -> None:
        """Nothing is held."""
        self._closed = True
