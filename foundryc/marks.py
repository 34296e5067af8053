"""What a script marks for `foundryc capture SCRIPT.py`; outside a capture it does nothing.

Nothing is imported here: a script that runs by itself pays for a look at one variable.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from typing import Protocol, TypeVar

    import torch

    from foundryc.module import WeightPath
    from foundryc.recording import GraphRecording

    T = TypeVar("T", torch.Tensor, torch.nn.Module)

    class Marks(Protocol):
        """What a capture does where a script has a mark."""

        def record(
            self, name: str, key: dict[str, int | str]
        ) -> AbstractContextManager[GraphRecording]:
            """The body of the `with` block becomes a graph."""

        def keep(
            self,
            name: str,
            value: torch.Tensor | torch.nn.Module,
            files: Iterable[WeightPath] | None,
        ) -> None:
            """The value is in the bundle under this name."""


class _Unrecorded:
    """A block outside a capture, and its graph."""

    def __enter__(self) -> GraphRecording:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def input(self, name: str, tensor: torch.Tensor) -> None:
        pass

    def output(self, name: str, tensor: torch.Tensor) -> None:
        pass


UNRECORDED = _Unrecorded()
active: Marks | None = None
"""Set while a script is captured."""


def record(name: str, /, **key: int | str) -> AbstractContextManager[GraphRecording]:
    """In a capture, make the body of the `with` block graph `name`; `key` tells its variants apart.

    The block runs as it would by itself. It may read and write tensors that the script made
    before; the graph has them as they are there. `as graph`: `graph.input(name, tensor)` names
    memory that is written before a launch, `graph.output(name, tensor)` a result. A name and key
    are recorded the first time. Run the same code once before, as for `torch.cuda.graph`.
    The key's values are integers and texts; UsageError, with the script's line, for others, and
    where a block that runs again names other tensors.
    """
    return UNRECORDED if active is None else active.record(name, key)


def keep(name: str, value: T, files: Iterable[WeightPath] | None = None) -> T:
    """In a capture, have a tensor or a module in the bundle under `name`; gives `value` back.

    A tensor is state that can be read and written online. A module's parameters and buffers are
    `name.` and their own names; those that `files` hold are read from there online, by default
    the files of a model of transformers (`Recorder.module`). Keep a module before graphs use it.
    """
    if active is not None:
        active.keep(name, value, files)
    return value
