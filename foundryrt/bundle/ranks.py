"""The ranks of a bundle: where their slabs lie, what the words say, and the rules for both.

A rank sends to another by writing into that one's slab (docs/tensor-parallel.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from foundryrt.bundle.rules import refer, require
from foundryrt.bundle.schema import ALIGNMENT, Manifest, Region, Tensor
from foundryrt.errors import UsageError
from foundryrt.printable import quoted

RANK, TAKING_PART, MISSING, BOUND = range(4)
"""What each of the words is: the own rank; how many ranks take part, all or, of a process alone, 1;
0, or 1 + a rank that did not answer, after which all exchanges give zeros; the milliseconds after
which a rank counts as such a one."""
WORDS = 4
MOST = 64
"""Ranks of a bundle."""
BOUND_MS = 8000
"""Longer than ranks that work are apart, short enough to notice one that does not."""
MESSAGE = 256
"""A rank's part of a buffer is a multiple of so many bytes."""
ONE_PROCESS = "the bundle is for one process: it was captured without ranks"


def first_words(rank: int = 0) -> tuple[int, int, int, int]:
    """The words of a process alone."""
    return rank, 1, 0, BOUND_MS


def slab_region(manifest: Manifest) -> Region:
    """The region of the slabs; UsageError where the bundle is for one process."""
    if not manifest.ranks:
        raise UsageError(ONE_PROCESS)
    return next(region for region in manifest.regions if region.peer_stride)


def words_tensor(manifest: Manifest) -> Tensor | None:
    """The tensor of the ranks' words; None where the bundle is for one process."""
    return manifest.tensors[manifest.ranks.words] if manifest.ranks else None


def check_rank(manifest: Manifest, rank: int) -> None:
    """UsageError unless `rank` is one of the bundle's."""
    world = manifest.ranks.world if manifest.ranks else 1
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank}: the bundle was captured for {world}, counted from 0")


def check_peers(manifest: Manifest, rank: int, slabs: Iterable[int]) -> int:
    """How many ranks there are; UsageError unless `slabs` are of all of them but `rank`."""
    slab_region(manifest)
    world = manifest.ranks.world if manifest.ranks else 1
    given, others = sorted(slabs), [other for other in range(world) if other != rank]
    if given != others:
        raise UsageError(f"rank {rank} of {world} needs the slabs of ranks {others}, not {given}")
    return world


def check_ranks(manifest: Manifest) -> None:
    """Raise a BundleError that names the first rule that ranks and slabs break."""
    slabs = [region for region in manifest.regions if region.peer_stride]
    ranks = manifest.ranks
    # Bundles from before there were ranks may have a stride all the same.
    if not ranks:
        return
    require(len(slabs) == 1, "there are ranks, and no slabs of theirs")
    (region,), world = slabs, ranks.world
    where = f"region {quoted(region.name)}"
    require(2 <= world <= MOST, f"{world} ranks, need 2 to {MOST}")
    require(
        region.peer_stride % ALIGNMENT == 0 and region.size == world * region.peer_stride,
        f"{where} has {region.size} bytes for {world} slabs of {region.peer_stride}",
    )
    require(region.section == -1, f"{where} has initial bytes")
    refer("the ranks' words", ranks.words, manifest.tensors)
    tensor = manifest.tensors[ranks.words]
    form = (tensor.dtype, tensor.shape, tensor.strides, tensor.role, tensor.graph)
    require(
        form == ("int32", (WORDS,), (1,), "state", -1),
        f"the ranks' words, tensor {quoted(tensor.name)}, are no int32 [{WORDS}] of state",
    )
    for tensor in manifest.tensors:
        require(
            manifest.regions[tensor.region] is not region,
            f"tensor {quoted(tensor.name)} lies in the slabs",
        )
