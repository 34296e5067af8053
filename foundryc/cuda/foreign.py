"""Memory outside the arena that graphs use: whose it is, what it held, and what it points to.

Libraries allocate tables and workspaces of their own, a program may have made tensors before its
recorder, backward's threads know nothing of the arena's pool. What a graph reads of all that must
be there in another process.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foundryc.cuda import driver
from foundryc.cuda.extract import DEVICE, MEMORY, foreign_pointers
from foundryrt.bundle.schema import MAX_REGIONS, REGIONS
from foundryrt.errors import FoundryError, UsageError

_NOT_THE_USER_S = [
    Path(torch.__file__).parent, Path(contextlib.__file__).parent, Path(__file__).parents[1]
]  # fmt: skip
"""Folders of code that allocates for somebody else: torch, the standard library, this package."""
GIVEN = "whoever opens the bundle"
FOREIGN = "foreign"
"""With a number, a region without a name of its own."""
_STEP = 64 << 20
"""Bytes that are copied from the device at a time."""
_BLOCK = 1 << 16
"""Bytes that take host memory unless they are all zero."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ForeignRegion:
    """An allocation that is not the arena's, with what it held when a graph was found to use it.

    One with a `name` will be given by whoever opens the bundle: nothing of it is kept.
    """

    base: int
    size: int
    owner: str
    data: Bytes = field(repr=False)
    """Up to the last byte that is not zero."""
    name: str = ""


class ForeignMemory:
    """The allocations outside [base, end), in the order in which graphs led to them."""

    def __init__(self, base: int, end: int) -> None:
        self._base, self._end = base, end
        self.regions: list[ForeignRegion] = []
        self._given: list[ForeignRegion] = []
        """What may be given, used or not."""

    def give(self, name: str, base: int, size: int) -> None:
        """Take [base, base + size) for memory that whoever opens the bundle gives by this name.

        UsageError where a part of it has a name already, or the name is none or that of a region
        which is not given.
        """
        if not name or name in REGIONS or name.partition(" ")[0] == FOREIGN:
            raise UsageError(
                f"memory is given as {name!r}: choose a name, and none of the bundle's own"
                f" ({', '.join(REGIONS)}, {FOREIGN} NUMBER)"
            )
        for known in [*self._given, *self.regions]:
            if known.base < base + size and base < known.base + known.size:
                raise UsageError(f"{name}: the memory is {known.name or 'kept'} already")
            if known.name == name:
                raise UsageError(f"two ranges of memory are given as {name!r}")
        self._given.append(ForeignRegion(base, size, GIVEN, np.empty(0, np.uint8), name))

    def locate(self, address: int) -> tuple[int, int] | None:
        """Number of the region that holds `address`, and how far in; None for no known one."""
        for index, region in enumerate(self.regions):
            if region.base <= address < region.base + region.size:
                return index, address - region.base
        return None

    def add(self, tensor: torch.Tensor, name: str, filled: bool) -> None:
        """Take in the block of a registered tensor, which is alone in it, with its contents if it
        is not zero."""
        address, blocks = tensor.data_ptr(), torch_blocks()
        size = next(size for base, size, _ in blocks if base == address)
        data = _read(address, size) if filled else np.empty(0, np.uint8)
        self.regions.append(ForeignRegion(address, size, f"tensor {name}", data))

    def follow(self, addresses: Iterable[int]) -> None:
        """Take in the allocations of these addresses of device memory, and all they point to.

        FoundryError where there are more than a bundle can hold.
        """
        pending = deque(dict.fromkeys(addresses))
        blocks: list[tuple[int, int, str]] | None = None
        while pending:
            address = pending.popleft()
            if self._base <= address < self._end or self.locate(address) is not None:
                continue
            region = self._named(address)
            if region is None:
                blocks = torch_blocks() if blocks is None else blocks
                region = _saved(address, blocks)
            self.regions.append(region)
            if len(self.regions) > MAX_REGIONS - len(REGIONS):
                raise FoundryError(
                    f"graphs use more than {len(self.regions) - 1} allocations that were made"
                    " outside the recorder; make the program's memory inside `warm_up`, or register"
                    " its tensors"
                )
            words = region.data[: region.data.size // 8 * 8].view(np.uint64)
            found = foreign_pointers(words, self._base, self._end)
            pending += [pointer.address for pointer in found if pointer.memory == DEVICE]

    def _named(self, address: int) -> ForeignRegion | None:
        for region in self._given:
            if region.base <= address < region.base + region.size:
                return region
        return None


def _saved(address: int, blocks: list[tuple[int, int, str]]) -> ForeignRegion:
    """The allocation around an address: a block of torch's, else what the driver gave out."""
    index = bisect_right(blocks, (address, 1 << 64, "")) - 1
    if index >= 0 and address < blocks[index][0] + blocks[index][1]:
        base, size, owner = blocks[index]
    else:
        (pointer,) = foreign_pointers(np.array([address], np.uint64))
        base, size, owner = pointer.start, pointer.bytes, "a library"
        if pointer.memory != DEVICE:
            raise FoundryError(f"{address:#x} is {MEMORY.get(pointer.memory, 'other')} memory")
    return ForeignRegion(base, size, owner, _read(base, size))


def _read(base: int, size: int) -> Bytes:
    """Device memory up to the last byte that is not zero."""
    data = np.zeros(size, np.uint8)  # which takes memory where it is written to
    step = np.empty(min(size, _STEP), np.uint8)
    for start in range(0, size, _STEP):
        part = step[: size - start]
        driver.call(
            "cuMemcpyDtoH", part.ctypes.data, base + start, part.size, about="foreign memory"
        )
        for at in range(0, part.size, _BLOCK):
            block = part[at : at + _BLOCK]
            if block.any():
                data[start + at : start + at + block.size] = block
    used = np.flatnonzero(data[: size // 8 * 8].view(np.uint64))
    end = int(used[-1] + 1) * 8 if used.size else 0
    tail = data[size // 8 * 8 :]
    return data if tail.any() else data[:end]


def torch_blocks() -> list[tuple[int, int, str]]:
    """Address, size and owner of every block that torch's allocator has given out, by address."""
    found = []
    for segment in torch.cuda.memory_snapshot():  # type: ignore[no-untyped-call]
        for block in segment["blocks"]:
            if block["state"].startswith("active"):
                found.append((int(block["address"]), int(block["size"]), _owner(block)))
    return sorted(found)


def _owner(block: dict[str, Any]) -> str:
    """`torch`, and the line of the user's program that asked for the memory, if torch knows it."""
    for frame in block.get("frames", ()):
        path = Path(str(frame["filename"]))
        if path.suffix == ".py" and not any(map(path.is_relative_to, _NOT_THE_USER_S)):
            # Without its folder: a bundle names nothing of the machine that made it.
            return f"torch, for {path.name}:{frame['line']}, {frame['name']}"
    return "torch"
