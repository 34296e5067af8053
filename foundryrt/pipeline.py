"""One graph again and again: the inputs, the run and the results of several launches at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError

Arrays = Mapping[str, NDArray[Any]]


class Pipeline(Protocol):
    """Launches in flight stand in slots 0 to depth-1; one thread may submit, another wait."""

    depth: int

    def staging(self, name: str) -> NDArray[Any]:
        """A new array like input `name`; from such an array `submit` copies to the device at once.

        It lives as long as the pipeline, and must keep its values until the slot's `wait`.
        """

    def submit(self, slot: int, values: Arrays) -> None:
        """Start a launch with these inputs; the slot's last one must have been waited for."""

    def done(self, slot: int) -> bool:
        """Whether `wait` would return at once."""

    def wait(self, slot: int) -> Arrays:
        """The outputs of the slot's launch in host memory, valid until its next `submit`."""

    def close(self) -> None:
        """Finish what is in flight and free the buffers."""


class HostPipeline:
    """The same calls where nothing runs at the side: `submit` runs the graph to its end."""

    def __init__(
        self, launch: Callable[[], None], inputs: Arrays, outputs: Arrays, depth: int
    ) -> None:
        self.depth = depth
        self._launch = launch
        self._inputs = inputs
        self._outputs = outputs
        self._results = [
            {name: np.empty(view.shape, view.dtype) for name, view in outputs.items()}
            for _ in range(depth)
        ]

    def staging(self, name: str) -> NDArray[Any]:
        view = self._inputs[name]
        return np.empty(view.shape, view.dtype)

    def submit(self, slot: int, values: Arrays) -> None:
        check_inputs(values, self._inputs)
        for name, view in self._inputs.items():
            view[...] = values[name]
        self._launch()
        for name, view in self._outputs.items():
            self._results[slot][name][...] = view

    def done(self, slot: int) -> bool:
        return True

    def wait(self, slot: int) -> Arrays:
        return self._results[slot]

    def close(self) -> None:
        """Nothing is held."""


def check_inputs(values: Arrays, wanted: Mapping[str, Any]) -> None:
    """UsageError unless every input is there, with its shape and dtype."""
    if values.keys() != wanted.keys():
        raise UsageError(
            f"a launch takes {', '.join(wanted)}, not {', '.join(values) or 'nothing'}"
        )
    for name, like in wanted.items():
        got = values[name]
        if got.shape != tuple(like.shape) or got.dtype != like.dtype:
            raise UsageError(
                f"{name} is {like.dtype} {tuple(like.shape)}, not {got.dtype} {got.shape}"
            )
