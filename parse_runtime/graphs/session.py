"""What is needed of a session: of an open bundle, or of passes that torch runs directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class PassGraph(Protocol):
    """A pass, ready to launch."""

    def launch(self) -> object: ...

    def read(self, name: str) -> NDArray[Any]: ...


class PassSession(Protocol):
    """Graphs and their inputs."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the capture."""

    @property
    def graphs(self) -> Sequence[tuple[str, Mapping[str, int | str]]]:
        """Name and key of each."""

    def graph(self, name: str, **key: int | str) -> PassGraph: ...

    def write(self, name: str, values: NDArray[Any]) -> None: ...


class BundleSession(PassSession, Protocol):
    """An open bundle, with the files that were attached at capture."""

    @property
    def files(self) -> Sequence[str]: ...

    @property
    def weights_digest(self) -> str:
        """Of the contents of all weights."""

    def file(self, name: str) -> bytes: ...

    def ready(self) -> int:
        """How many graphs can be launched without waiting."""

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Block until every graph can be; `progress` gets (ready, all).

        FoundryError where one cannot.
        """
