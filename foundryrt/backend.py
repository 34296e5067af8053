"""What a target offers to a session, and the way to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from foundryrt.bundle import schema
from foundryrt.bundle.ranks import BOUND_MS
from foundryrt.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray  # imported by code that asks for arrays: it takes long

    from foundryrt.bundle.reader import Bundle
    from foundryrt.pipeline import Pipeline
    from foundryrt.protocols import Readback, Tensor
    from foundryrt.weight_files import FileState


class Backend(Protocol):
    """What a target offers to a session; graphs go by their index in the manifest."""

    @property
    def timeline(self) -> list[tuple[str, float]]:
        """Steps of the materialization and when each was done (time.perf_counter, seconds)."""

    def launch(self, graph: int, stream: int | None = None) -> None:
        """Run a graph, or queue it on `stream`."""

    def pipeline(
        self,
        graph: int,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        depth: int,
        lazy: Collection[str],
        timed: bool = False,
    ) -> Pipeline:
        """Launches of a graph, `depth` of them in flight; tensors are those of `tensor`."""

    def seed(self, seed: int) -> None:
        """Seed the random numbers."""

    def synchronize(self) -> None:
        """Wait for everything queued on the session's stream."""

    def free_memory(self) -> int | None:
        """Bytes of the device that can still be allocated; None where there is no device."""

    def tensor(self, tensor: schema.Tensor) -> Tensor:
        """A tensor of the manifest in place."""

    def read(self, tensor: schema.Tensor) -> NDArray[Any]:
        """A copy of a tensor's elements."""

    def readback(self, tensor: schema.Tensor) -> Readback:
        """Copies of a tensor that do not wait for what is launched later."""

    def write(self, tensor: schema.Tensor, values: NDArray[Any]) -> None:
        """Replace a tensor's elements; UsageError unless shape and dtype agree."""

    def ready(self, graph: int | None = None) -> int:
        """How many graphs can be launched at once; of one graph, 1 where it can."""

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Block until every graph can be launched; `progress` gets (ready, all)."""

    def prefer(self, graph: int) -> None:
        """Have a graph made before those that nobody waits for."""

    def prepare(
        self, graphs: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Block until these can be launched, and all others are read, checked and preloaded."""

    def load_weights(self, check: bool = True) -> None:
        """Fill the weights from their files."""

    def close(self) -> None:
        """Free what the backend holds."""


class RankBackend(Backend, Protocol):
    """A backend that can be one of several ranks."""

    def load_weights(self, check: bool = True, states: Sequence[FileState] | None = None) -> None:
        """Fill the weights; where ranks have shared out the digests, each compares its own.

        `states` are what rank 0 has seen of the weight files, which they need for that.
        """

    def export_slab(self) -> int:
        """A descriptor of this rank's slab, which the backend closes; UsageError without ranks."""

    def join(self, slabs: Mapping[int, int], bound: int = BOUND_MS) -> None:
        """Take part in exchanges; `slabs` are descriptors of the others' by rank, for the caller to
        close, `bound` the milliseconds after which a rank counts as missing."""

    def abandon(self, rank: int) -> None:
        """Have exchanges under way and later ones give up, as if `rank` had not answered."""


def open_backend(
    bundle: Bundle,
    weights: Path | None,
    device: int,
    first: int | None,
    load_weights: bool,
    base: int | None,
    place: Mapping[str, object] | None,
    rank: int = 0,
    shared: bool = False,
    order: Sequence[int] = (),
) -> RankBackend:
    """The bundle on its target; arguments are those of `Session.open`, `first` a graph's index,
    `rank` which of the bundle's ranks this process is. Where digests are `shared` out among all
    ranks, weights are loaded by a later call of `load_weights`. Graphs in `order` are made before
    the rest, which matters on cuda."""
    if bundle.manifest.target == "host":
        if base is not None:
            raise UsageError("a host bundle lies at no address: give no base")
        from foundryrt.host.backend import HostBackend

        return HostBackend(bundle, weights, load_weights, place, rank, shared)
    from foundryrt.cuda.backend import CudaBackend

    return CudaBackend(
        bundle, device, first, weights, load_weights, base, place, rank, shared, order
    )
