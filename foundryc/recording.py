"""What a target offers to the recorder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from foundryc.capture import Capture
from foundryc.weights import WeightSlice


class GraphRecording(Protocol):
    """A graph being recorded."""

    def input(self, name: str, tensor: torch.Tensor) -> None:
        """Name memory from before this graph, to be written before its launches; only inside the
        graph's `with` block."""

    def output(self, name: str, tensor: torch.Tensor) -> None:
        """Name a result of this graph; only inside the graph's `with` block."""


class Recording(Protocol):
    """What a target's backend offers to the recorder."""

    def register(
        self, name: str, tensor: torch.Tensor, role: str, slices: Sequence[WeightSlice] = ()
    ) -> torch.Tensor:
        """A tensor of equal contents in the arena."""

    def warm_up(self) -> AbstractContextManager[None]:
        """The body runs with its memory in the arena, before anything is recorded."""

    def program(self) -> AbstractContextManager[None]:
        """Graphs recorded in the body may use all memory that the body makes."""

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """A name for memory of the program."""

    def graph(self, name: str, /, **key: int | str) -> AbstractContextManager[GraphRecording]:
        """Records the body of the `with` block."""

    @property
    def pool(self) -> tuple[int, int]:
        """Torch's pool in the arena."""

    def given(self, name: str, tensor: torch.Tensor) -> None:
        """Names memory that whoever opens the bundle gives."""

    def adopt(
        self, raw_graph: int, outputs: Mapping[str, torch.Tensor], name: str, /, **key: int | str
    ) -> None:
        """Keeps a CUgraph that other code captured."""

    def ranks(
        self, world: int, rank: int, words: torch.Tensor, size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The words of `world` ranks, registered, and their slabs: zeros, uint8 [world * stride]
        with a stride of at least `size`; on cuda only that of `rank` need have memory."""

    def capture(self, embed_weights: bool) -> Capture:
        """Everything that has been recorded."""
