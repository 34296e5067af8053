"""A graph for GPUs of another architecture: its launches are noted where such a GPU need not be."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

from foundryc.template import GraphTable
from foundryrt.bundle.schema import NodeKind
from foundryrt.errors import UsageError

_MEMORY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


@dataclass(frozen=True)
class NotedKernel:
    """A kernel of a build; launching it adds a node, which follows the one before."""

    image: bytes
    name: str
    most_shared: int
    """Bytes of dynamic shared memory a block."""
    launches: list[Launch] = field(repr=False)

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int],
        stream: int,
        shared: int = 0,
    ) -> None:
        """As `Kernel.launch`; the stream does not matter."""
        self.launches.append(Launch(self, grid, block, shared, tuple(arguments)))


@dataclass(frozen=True)
class Launch:
    """A kernel node; arguments are device addresses."""

    kernel: NotedKernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    arguments: tuple[int, ...]

    @property
    def words(self) -> list[int]:
        """The node's parameters, as in docs/format.md."""
        head = struct.pack("<8I", *self.grid, *self.block, self.shared, 0)
        return [*struct.unpack("<4Q", head), *self.arguments]

    @property
    def skeleton(self) -> bytes:
        """What the words mean: addresses one behind the other, and no attributes."""
        count = len(self.arguments)
        each = [struct.pack("<2I", 8 * i, 8) for i in range(count)]
        return struct.pack("<IHBB", 8 * count, count, 0, 0) + b"".join(each)


class Build:
    """Of `architecture`, while it is recorded: see Recorder.build."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self._launches: list[Launch] = []

    def load(self, image: bytes, name: str, shared: int = 0) -> NotedKernel:
        """As `Kernel.load`, of a binary for the build's architecture."""
        return NotedKernel(image, name, shared, self._launches)

    def table(
        self, name: str, key: dict[str, int | str], number: Callable[[NotedKernel], int]
    ) -> GraphTable:
        """The launches as graph `name`; `number` gives each kernel's as a function.

        UsageError where there is none.
        """
        launches = self._launches
        if not launches:
            raise UsageError(f"graph {name}: nothing is launched for {self.architecture}")
        return GraphTable.of_nodes(
            name,
            key,
            kinds=[NodeKind.KERNEL] * len(launches),
            functions=[number(launch.kernel) for launch in launches],
            skeletons=[launch.skeleton for launch in launches],
            parameters=[np.array(launch.words, np.uint64) for launch in launches],
            edges=[(node, node + 1, 0, 0, 0) for node in range(len(launches) - 1)],
        )


class OnlyMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In the block torch may take memory and view it, but nothing that would run on a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func._schema.name.removeprefix("aten::")
        if name not in _MEMORY and not func.is_view:
            raise UsageError(
                f"torch's {name} in a graph for another architecture: there is no binary of it for"
                " that; launch kernels of your own alone"
            )
        return func(*args, **(kwargs or {}))
