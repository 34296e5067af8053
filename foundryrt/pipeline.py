"""One graph launched repeatedly: inputs, runs and results of several launches overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from foundryrt.arrays import check_array
from foundryrt.errors import UsageError
from foundryrt.whole import whole

if TYPE_CHECKING:
    from ctypes import c_int64

    import numpy as np
    from numpy.typing import NDArray

    from foundryrt.protocols import Tensor

    Arrays = Mapping[str, NDArray[Any]]

T = TypeVar("T")
_MEMORY = 1 << 47


class Pipeline(Protocol):
    """Launches in flight, each in one of the slots 0 to depth - 1.

    One thread may submit while another waits. UsageError for another slot, for a name that is no
    input, and once it or its session is closed.
    """

    depth: int

    def staging(self, name: str) -> NDArray[Any]:
        """A new array like input `name`; from such an array `submit` copies to the device at once.

        It has the input's shape and dtype. It lives as long as the pipeline, and must keep its
        values until the slot's `wait`.
        """

    def memory(self, size: int, ahead: bool = False) -> NDArray[np.uint8]:
        """`size` new bytes, for `staging` arrays of any inputs anywhere in them.

        With `ahead` their values go to the device before `submit`, by `upload`.
        """

    def upload(self, values: NDArray[Any]) -> None:
        """Start to copy a dense part of memory made with `ahead`; of other arrays nothing is done.

        UsageError for an array with gaps.

        All values of an input that lies in such memory must have been uploaded before `submit`,
        and so again after they were changed. Any one thread may do so, beside all other calls.
        """

    def submit(self, slot: int, values: Arrays) -> None:
        """Start a launch with these inputs; the slot's last one must have been waited for.

        UsageError unless every input is there, with its shape and dtype.
        """

    def done(self, slot: int) -> bool:
        """Whether `wait` would return at once."""

    def idle(self, slot: int | None, word: c_int64, seen: int, seconds: float) -> None:
        """Return once the slot, if any, is done, or `word` not `seen`; or at any time before.

        At the latest after `seconds`. It polls, and leaves the interpreter to other threads.
        """

    def wait(self, slot: int) -> Arrays:
        """The outputs of the slot's launch in host memory, valid until its next `submit`.

        A lazy output is copied from the device when the mapping is asked for it; until the slot's
        next `submit`, any one thread may.
        """

    def moments(self, slot: int) -> tuple[float, float, float]:
        """When a slot's inputs had come, its graph was done, and its outputs had been copied.

        In seconds of the device's clock, since the pipeline was made; CUDA gives milliseconds in
        single precision, which after a minute are 4 us apart. Between the slot's `wait` and its
        next `submit` any one thread may ask. UsageError where the pipeline is not `timed`.
        """

    def close(self) -> None:
        """Finish what is in flight and free the buffers."""


def untimed() -> UsageError:
    """What `moments` raises where nobody asked for times."""
    return UsageError("this pipeline keeps no times; make it with timed=True")


def input_named(name: str, inputs: Mapping[str, T]) -> T:
    """What belongs to the input of that name; UsageError lists what there is."""
    if name not in inputs:
        raise UsageError(f"no input {name!r}; the pipeline takes {', '.join(inputs) or 'none'}")
    return inputs[name]


def check_size(size: int) -> int:
    """The bytes that `memory` is asked for; UsageError for what is no such number."""
    return whole("memory of a pipeline: the size", size, _MEMORY)


def check_part(values: NDArray[Any]) -> None:
    """UsageError where an array that is to be uploaded has gaps: they would be taken for it."""
    if not values.flags.c_contiguous:
        raise UsageError("upload: give a dense part of the memory, without gaps")


def check_slot(slot: int, depth: int) -> None:
    """UsageError unless a pipeline of that depth has this slot."""
    if not 0 <= slot < depth:
        raise UsageError(f"slot {slot}: the pipeline has 0 to {depth - 1}")


def check_inputs(values: Arrays, wanted: Mapping[str, Tensor]) -> None:
    """UsageError unless every input is there, with its shape and dtype."""
    if values.keys() != wanted.keys():
        raise UsageError(
            f"a launch takes {', '.join(wanted)}, not {', '.join(values) or 'nothing'}"
        )
    for name, like in wanted.items():
        check_array(name, values[name], like)
