"""The data model of a bundle (docs/format.md); no logic beyond names and shapes.

Addresses are absolute: `Region.base + offset`. On the `host` target a base counts from the start
of the arena, on `cuda` it is the virtual address that was reserved at capture.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

# 1: 2026-11-24, first version.
#    2026-11-24, kind 7 (signature) added; optional, so earlier readers of version 1 skip it.
#    2026-11-25, WeightSource.blake3 and Weights.digest_kernel added; earlier readers refuse
#    bundles that have them.
#    2026-11-29, Manifest.relocatable, Region.owner and the relocations of regions and variables
#    added, relocation columns filled, and Manifest.random with GraphEntry.random; dtypes uint16 to
#    uint64, complex32 and three more of float8; Region.given and Manifest.growing; earlier readers
#    refuse bundles that have them.
#    2026-11-29, Manifest.ranks and WeightRecipe.rank added, and left out where there are none;
#    earlier readers refuse bundles that have them.
#    2026-11-29, GraphEntry.builds added, and left out where there are none; earlier readers refuse
#    bundles that have them.
#    2026-11-30, Manifest.unproved added, and left out where there are none; earlier readers refuse
#    bundles that have them.
#    2026-11-30, Region.extents added, and left out where there are none; earlier readers refuse
#    bundles that have them.
#    2026-11-30, WeightFile.hint may begin with `~/`; earlier readers want --weights there.
FORMAT_VERSION = 1
MAGIC = b"FDY\x01"
ALIGNMENT = 4096

TARGETS = ("host", "cuda")
ROLES = ("weight", "state", "input", "output", "constant")
REGIONS = ("weights", "state", "io", "scratch", "symmetric")
"""Regions of the arena. A foreign region, which has an owner, has a name of its own."""
MAX_REGIONS = 255

# Bytes an element; the names are torch's.
DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
    "complex64": 8, "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "complex32": 4,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
# What numpy lacks is seen as its bits: unsigned integers.
SEEN_AS = {
    "bfloat16": "uint16", "complex32": "uint32", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8",
    "float8_e4m3fnuz": "uint8", "float8_e5m2fnuz": "uint8", "float8_e8m0fnu": "uint8",
}  # fmt: skip


# As many dimensions as torch has; checked before a list of numbers takes memory.
Dimensions = Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]


class SectionKind(IntEnum):
    """What a section holds. Kinds of a later version are skipped where marked optional."""

    MANIFEST = 1
    TEMPLATE = 2
    MEMBER = 3
    KERNEL = 4
    REGION = 5
    FILE = 6
    SIGNATURE = 7


class NodeKind(IntEnum):
    """Kind of a graph node, as stored in a template's `kind` column."""

    OPERATOR = 0
    KERNEL = 1
    MEMCPY = 2
    MEMSET = 3
    EMPTY = 4


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in the manifest: unknown fields are refused, nothing changes later."""


class Requirements(Record, frozen=True):
    """What a machine must offer; compared before anything is allocated."""

    memory: int
    """Bytes of arena."""
    architecture: str = ""
    """`sm_90` for cuda; empty for host. Of the GPU that made it: graphs may have other builds."""
    driver: int = 0
    """Lowest driver version as `cuDriverGetVersion` gives it (13000); 0 for host."""
    torch: str = ""
    """The torch release whose operators a host bundle was recorded with; empty for cuda."""


class Relocation(Record, frozen=True):
    """An 8-byte word that is an address in `region`, `offset` bytes into what it belongs to."""

    offset: int
    region: int


class Extent(Record, frozen=True):
    """Bytes of a region, `offset` bytes into it."""

    offset: int
    size: int


class Region(Record, frozen=True):
    """A range of device memory: a part of the arena, or foreign, if it has an owner."""

    name: str
    base: int
    size: int
    section: int = -1
    """Section with the region's initial bytes (a prefix, unless there are extents; the rest is
    zero); -1 for none."""
    peer_stride: int = 0
    """Bytes between the ranks' slabs in the `symmetric` region; 0 elsewhere."""
    owner: str = ""
    """Who made a foreign region, as far as it is known: text for people. Empty in the arena."""
    written: bool = False
    """Whether a graph was seen to write to a foreign region."""
    relocations: tuple[Relocation, ...] = ()
    """The addresses among the initial bytes, by rising offset."""
    given: bool = False
    """Whether the opener must give a foreign region's memory: the bundle holds nothing of it."""
    extents: tuple[Extent, ...] | msgspec.UnsetType = msgspec.UNSET
    """Where the section's bytes lie, one behind the other, by rising offset; absent for a prefix.
    """


class Tensor(Record, frozen=True):
    """A named, strided tensor of the arena."""

    name: str
    region: int
    offset: int
    dtype: str
    shape: Dimensions
    strides: Dimensions
    """In elements, never negative."""
    role: str
    graph: int = -1
    """The graph that owns the name; -1 where every graph shares the tensor."""


class Kernel(Record, frozen=True):
    """A kernel binary (cubin), stored once by content."""

    sha256: bytes
    section: int


class Function(Record, frozen=True):
    """What a node calls: an ATen overload (host) or an entry point of a kernel binary (cuda)."""

    name: str
    kernel: int = -1
    max_dynamic_shared: int = 0
    """Bytes; applied before any node that uses the function is added."""
    shared_carveout: int = -1
    """Percent, -1 for the driver's own choice."""
    cluster_nonportable: bool = False


class Variable(Record, frozen=True):
    """A `__device__` or `__constant__` variable whose contents at capture were not those of the
    binary's own image; written as soon as the binary is loaded."""

    kernel: int
    name: str
    data: bytes
    relocations: tuple[Relocation, ...] = ()
    """The addresses in `data`, by rising offset."""


class Column(Record, frozen=True):
    """One array inside a table's section: little-endian numpy dtype, byte offset, count."""

    dtype: str
    offset: int
    count: int


class Template(Record, frozen=True):
    """A topology. Its columns are listed in docs/format.md under "Graph tables"."""

    section: int
    nodes: int
    edges: int
    columns: dict[str, Column]


class Build(Record, frozen=True):
    """A graph as GPUs of another architecture run it; its tensors are the graph's."""

    architecture: str
    template: int
    section: int
    columns: dict[str, Column]


class GraphEntry(Record, frozen=True):
    """A member of a template: the words of its parameters that differ from the template's."""

    name: str
    key: dict[str, int | str]
    template: int
    section: int
    columns: dict[str, Column]
    random: int = 0
    """By how much a launch advances the offset of the random numbers."""
    builds: tuple[Build, ...] | msgspec.UnsetType = msgspec.UNSET
    """For other architectures than the bundle's own; false where there are none."""


class Random(Record, frozen=True):
    """Where graphs read the state of torch's generator: Philox seed and offset, int64 tensors."""

    seed: int
    offset: int
    """Tensors of the manifest."""
    initial_seed: int
    """What a session begins with, unless it is seeded; the offset begins at 0."""


class WeightFile(Record, frozen=True):
    """A file of the user's that weights are read from."""

    name: str
    """Its path below the folder given with --weights: the file name, with folders only where two
    files have one name."""
    size: int
    hint: str
    """Where it was at capture; the runtime looks there unless told another folder. `~/` stands for
    the home folder of who runs it."""


class WeightSource(Record, frozen=True):
    """A tensor of a weight file: bytes [offset, offset + length) with their digest."""

    file: int
    name: str
    offset: int
    length: int
    dtype: str
    """A name of DTYPES, or a GGUF quantization such as `Q4_1`."""
    rows: int
    columns: int
    sha256: bytes = b""
    blake3: bytes = b""
    """One of the two digests; foundry writes BLAKE3, which one core takes at several GB/s."""

    @property
    def digest(self) -> bytes:
        """The digest of either kind."""
        return self.blake3 or self.sha256


class WeightCopy(Record, frozen=True):
    """Rows of a source copied into rows of a tensor, both seen as 2-D with unit column stride."""

    source: int
    rows: int
    columns: int
    source_row: int = 0
    source_row_step: int = 1
    source_column: int = 0
    row: int = 0
    row_step: int = 1
    column: int = 0


class WeightRecipe(Record, frozen=True, omit_defaults=True):
    """How one tensor is filled: copies that together cover it."""

    tensor: int
    copies: tuple[WeightCopy, ...]
    rank: int = -1
    """The rank that fills it so, if each has a recipe of its own; -1 for every rank."""


class Weights(Record, frozen=True):
    """All recipes of a bundle; empty where the weights are embedded in their region."""

    digest_kernel: int = -1
    """The kernel binary that takes BLAKE3 digests on the device; -1 where the CPU takes them."""

    files: tuple[WeightFile, ...] = ()
    sources: tuple[WeightSource, ...] = ()
    recipes: tuple[WeightRecipe, ...] = ()


class Workload(Record, frozen=True):
    """Which workload made the bundle; `foundryrt run` finds its driver by this name."""

    name: str
    settings: dict[str, bool | int | float | str | None]


class Growth(Record, frozen=True):
    """A tensor alone in a foreign region, of which a session may have more rows than the capture.

    Rows are its first dimension.
    """

    tensor: int
    most: int
    """Rows of a further capture, which was compared with this one."""
    refused: str = ""
    """Why it cannot grow, where something of the capture depends on how many rows there are."""


class Ranks(Record, frozen=True):
    """The processes that run the bundle together, each on a device of its own.

    The region `symmetric` has a slab for each, `peer_stride` bytes apart: a rank's own, and those
    of the others, mapped from them.
    """

    world: int
    """How many there are."""
    words: int
    """The tensor, int32 [4], that says which rank this is: foundryrt/bundle/ranks.py."""


class Manifest(Record, frozen=True):
    """The table of contents: everything but the graph tables and the raw bytes."""

    format_version: int
    target: str
    workload: Workload
    requirements: Requirements
    producer: dict[str, str]
    """Versions of the software that made the bundle, by name (foundryc, torch, ...); on host also
    `threads`, the number of threads it was recorded with."""
    provenance: dict[str, str]
    """Free text for people: never read by the runtime, never a time or a path."""
    regions: tuple[Region, ...]
    tensors: tuple[Tensor, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    functions: tuple[Function, ...] = ()
    variables: tuple[Variable, ...] = ()
    templates: tuple[Template, ...] = ()
    graphs: tuple[GraphEntry, ...] = ()
    weights: Weights = Weights()
    random: Random | None = None
    """Of bundles whose graphs draw random numbers."""
    relocatable: bool = False
    """Whether every address in it has a relocation: its regions may then lie anywhere."""
    growing: tuple[Growth, ...] = ()
    ranks: Ranks | msgspec.UnsetType = msgspec.UNSET
    """Of bundles for several ranks; false where it is not set."""
    unproved: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    """Of relocatable bundles, the graphs' outputs, by number among the tensors, that could not be
    compared when the bundle ran at another place; not set where all were."""
