"""What sessions, graphs and tensors offer, for code that takes one of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import (
        NDArray,
    )  # numpy is imported by code that asks for arrays: it takes long


GraphKey = tuple[str, Mapping[str, int | str]]
"""Name and key of a graph."""


class Tensor(Protocol):
    """A tensor in place: on host a numpy view, on cuda a `foundryrt.cuda.tensor.DeviceTensor`.

    The latter also has `read`, `write` and `__cuda_array_interface__`; code for both targets uses
    `Session.read` and `write`. Types that numpy lacks are seen as their bits: bfloat16 as uint16,
    complex32 as uint32, float8 as uint8.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements of each dimension."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's dtype of the elements."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind of device and its number, as DLPack counts them."""

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        """A DLPack capsule over the memory."""


class Readback(Protocol):
    """Copies of one tensor to the host that hold up nothing launched after them.

    It lives as long as the session.
    """

    @property
    def overlaps(self) -> bool:
        """Whether a graph launched after `start` runs while the host goes on; not on host."""

    def start(self) -> None:
        """Queue a copy of what the tensor holds after all launches so far, in place of the last."""

    def wait(self) -> NDArray[Any]:
        """The elements that `start` copied, once they are there; valid until the next `start`."""


class Launchable(Protocol):
    """A graph that can be launched, such as `foundryrt.session.Graph`."""

    def ready(self, soon: bool = False) -> bool:
        """Whether it can be launched without waiting; with `soon`, it is made next if not."""

    def launch(self) -> object:
        """Run the graph, or queue it."""

    def read(self, name: str) -> NDArray[Any]:
        """A copy of an output of this graph or of a shared tensor."""

    def readback(self, name: str) -> Readback:
        """Copies of such a tensor that do not wait for what is launched later."""

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Replace the contents of a tensor of this graph, or of a shared one."""


class GraphsLike(Protocol):
    """Graphs and their inputs: of an open bundle, or of code that is run directly."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the workload was captured with."""

    @property
    def graphs(self) -> Sequence[GraphKey]:
        """Name and key of every graph."""

    @property
    def rows(self) -> Mapping[str, int]:
        """How many rows each tensor has that may have more than at capture, by name."""

    def graph(self, name: str, /, **key: int | str) -> Launchable:
        """The graph of that name and key; UsageError where there is none."""

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Replace the contents of a shared tensor; UsageError unless shape and dtype agree."""


class FilesLike(Protocol):
    """What has attached files: a bundle, or its session."""

    @property
    def files(self) -> Sequence[str]:
        """Names of the attached files."""

    def file(self, name: str) -> bytes:
        """A file that was attached at capture; FoundryError where there is none."""

    def file_digest(self, name: str) -> bytes:
        """A digest of it: files of equal digests have equal contents."""


class SessionLike(GraphsLike, FilesLike, Protocol):
    """What workloads need of a `foundryrt.session.Session`, so that others can stand in for it."""

    @property
    def weights_digest(self) -> str:
        """Of the contents of all weights."""

    def ready(self) -> int:
        """How many graphs can be launched without waiting."""

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Block until every graph can be; `progress` gets (ready, all).

        FoundryError where one cannot.
        """
