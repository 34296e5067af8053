"""One graph of an open session, and how graphs are found by name and key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from foundryrt.errors import UsageError
from foundryrt.whole import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray  # imported by code that asks for arrays: it takes long

    from foundryrt.backend import Backend
    from foundryrt.bundle import schema
    from foundryrt.pipeline import Pipeline
    from foundryrt.protocols import Readback, Tensor

_STREAMS = (1 << 64) - 1
_DEPTH = 1 << 16


class Graph:
    """One graph of a session, with the tensors that it owns."""

    def __init__(
        self, backend: Callable[[], Backend], find: Callable[[str], schema.Tensor], index: int
    ) -> None:
        self._backend = backend
        self._find = find
        self._index = index

    def launch(self, stream: int | None = None) -> None:
        """Run the graph; on cuda queue it on `stream`, by default the session's.

        `stream` is a CUstream: torch's `stream.cuda_stream`, which is 0 for CUDA's default stream.
        UsageError where it is no number.
        """
        if stream is not None:
            stream = whole("stream", stream, _STREAMS, "give torch's stream.cuda_stream")
        self._backend().launch(self._index, stream)

    def ready(self, soon: bool = False) -> bool:
        """Whether it can be launched without waiting; with `soon`, it is made next if not."""
        backend = self._backend()
        if soon:
            backend.prefer(self._index)
        return bool(backend.ready(self._index))

    def tensor(self, name: str) -> Tensor:
        """An input or output of this graph, or a shared tensor, in place (see `Session.tensor`).

        Where both have the name it is the graph's. UsageError where none has, here and below.
        """
        return self._backend().tensor(self._find(name))

    def read(self, name: str) -> NDArray[Any]:
        """A copy of such a tensor in host memory, of its shape and dtype (see `Tensor`)."""
        return self._backend().read(self._find(name))

    def readback(self, name: str) -> Readback:
        """Copies of such a tensor that do not wait for what is launched later.

        On cuda each has pinned memory of its own, until the session is closed: keep it for reuse.
        """
        return self._backend().readback(self._find(name))

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Replace the contents of such a tensor; UsageError unless shape and dtype agree."""
        self._backend().write(self._find(name), values)

    def pipeline(
        self,
        inputs: Iterable[str],
        outputs: Iterable[str],
        depth: int = 3,
        lazy: Collection[str] = (),
        timed: bool = False,
    ) -> Pipeline:
        """Launch after launch with `inputs` from the host and `outputs` back, `depth` in flight.

        Of the outputs, those in `lazy` come back only when `wait`'s mapping is asked for them.
        `timed`: its `moments` may be asked for.

        The session closes it at the latest. On cuda it has streams of its own, on which copies and
        launches overlap. UsageError for a depth below 1, and for a name that is no tensor's.
        """
        depth = whole("depth", depth, _DEPTH, least=1)
        for names in (inputs, outputs, lazy):
            if isinstance(names, str):
                raise UsageError(f"{names!r}: give a list of names")
        sent, back = ({name: self.tensor(name) for name in names} for names in (inputs, outputs))
        if others := set(lazy) - back.keys():
            raise UsageError(f"lazy {', '.join(sorted(others))}: name outputs of the pipeline")
        return self._backend().pipeline(self._index, sent, back, depth, lazy, timed)


def graph_index(
    graphs: list[tuple[str, dict[str, int | str]]], name: str, key: dict[str, int | str]
) -> int:
    """Where a graph of that name and key is in `graphs`; UsageError lists what there is."""
    if (name, key) in graphs:
        return graphs.index((name, key))
    known = [f"{n}({', '.join(f'{k}={v!r}' for k, v in given.items())})" for n, given in graphs]
    wanted = f"{name}({', '.join(f'{k}={v!r}' for k, v in key.items())})"
    raise UsageError(f"no graph {wanted}; there is {listed(known)}")


def listed(names: list[str], limit: int = 12) -> str:
    """Names for an error message: the first `limit`, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
