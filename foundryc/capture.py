"""A finished capture: everything that becomes a bundle, the same for both targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from foundryc.template import GraphTable
from foundryc.weights import WeightSlice
from foundryrt.bundle.schema import (
    Function,
    Growth,
    Random,
    Ranks,
    Relocation,
    Requirements,
    Tensor,
    Variable,
)
from foundryrt.bundle.writer import Buffer


@dataclass(frozen=True)
class RegionImage:
    """A region and the bytes it begins with; `compress` is off for bytes that would not shrink.

    `owner`, `written`, `relocations`, `given` and `peer_stride` are the manifest's
    (foundryrt/bundle/schema.py, `Region`).
    """

    name: str
    base: int
    size: int
    initial: Callable[[], Iterable[Buffer]] | None = None
    """Reads the first bytes, in order, as often as it is called; None where all are zero."""
    compress: bool = True
    owner: str = ""
    written: bool = False
    relocations: tuple[Relocation, ...] = ()
    given: bool = False
    peer_stride: int = 0

    @property
    def memory(self) -> int:
        """Bytes that a process has of it: of slabs, its own."""
        return self.peer_stride or self.size


@dataclass(frozen=True, eq=False)
class Capture:
    """What a recording found out.

    `functions` and `variables` index `kernels`, the binaries as they are stored; `digest_kernel` is
    the one that takes digests of weights, -1 for none. `slices` fill tensors, by tensor index, from
    the user's weight files. `producer`, `provenance`, `relocatable`, `random`, `growing`, `ranks`
    and `unproved` are the manifest's.
    """

    target: str
    requirements: Requirements
    producer: dict[str, str]
    regions: Sequence[RegionImage]
    tensors: Sequence[Tensor]
    functions: Sequence[Function]
    graphs: Sequence[GraphTable]
    kernels: Sequence[bytes] = ()
    variables: Sequence[Variable] = ()
    slices: Mapping[int, Sequence[WeightSlice]] = field(default_factory=dict)
    digest_kernel: int = -1
    provenance: dict[str, str] = field(default_factory=dict)
    relocatable: bool = False
    random: Random | None = None
    growing: Sequence[Growth] = ()
    ranks: Ranks | None = None
    unproved: Sequence[int] = ()
    mapped: Sequence[tuple[int, int]] = ()
    """First address and end of what the process had mapped: no bundle holds it."""
