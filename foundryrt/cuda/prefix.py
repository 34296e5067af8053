"""The first nodes of a graph of a bundle, run alone, and what memory then holds.

With it `foundryc capture` looks for the node that gives something else at another place.
`python -m foundryrt.cuda.prefix BUNDLE BASE GRAPH NODES WANTED FOUND` runs the first NODES nodes of
graph number GRAPH. Files are numpy's .npz: WANTED has, by region number, the digests that memory
ought to have, FOUND gets the blocks that have others.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Tensor
from foundryrt.bundle.tables import MemberTable, TemplateTable
from foundryrt.cuda.backend import CudaBackend

BLOCK = 4096
"""Bytes that have a digest of their own."""
_STEP = 64 << 20
"""Bytes that are read from the device at a time."""
_MOST = 4096
"""Blocks of a region that are handed over. One is enough, unless addresses alone differ in it."""
Read = Callable[[int, int], bytes | bytearray]
"""The bytes of device memory at an address, so many."""


def digests(read: Read, base: int, size: int) -> npt.NDArray[np.uint64]:
    """A digest of every block of the `size` bytes at `base`; the last block may be shorter."""
    found = []
    for start in range(0, size, _STEP):
        data = memoryview(read(base + start, min(_STEP, size - start)))
        blocks = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
        found += [blake2b(block, digest_size=8).digest() for block in blocks]
    return np.frombuffer(b"".join(found), "<u8")


def blocks(
    read: Read, base: int, size: int, numbers: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """These blocks of the `size` bytes at `base` as words, [n, BLOCK / 8]; zeros fill the last."""
    starts = (BLOCK * int(number) for number in numbers)
    data = [read(base + at, min(BLOCK, size - at)).ljust(BLOCK, b"\0") for at in starts]
    return np.frombuffer(b"".join(data), "<u8").reshape(len(data), BLOCK // 8)


class _Prefix(Bundle):
    """A bundle of one graph, of which only the first `nodes` nodes are there."""

    nodes = 0

    def unchecked_template(self, index: int) -> TemplateTable:
        return first_nodes(super().unchecked_template(index), self.nodes)

    def member(self, index: int) -> MemberTable:
        graph = self.manifest.graphs[index]
        whole, table = super().member(index), super().unchecked_template(graph.template)
        count = bisect_left(whole.word, table.parameter_start[self.nodes])
        return MemberTable(whole.word[:count], whole.value[:count])


def first_nodes(table: TemplateTable, nodes: int) -> TemplateTable:
    """The template as if it ended before node `nodes`: earlier ones depend on none of the rest."""
    words, skeleton = table.parameter_start[nodes], table.skeleton_start[nodes]
    edges = [edge for edge, end in enumerate(table.edge_to) if end < nodes]
    relocations = bisect_left(table.relocation_word, words)

    def kept(column: memoryview) -> memoryview:
        return memoryview(array(column.format, [column[edge] for edge in edges]))

    return TemplateTable(
        kind=table.kind[:nodes],
        function=table.function[:nodes],
        parameter_start=table.parameter_start[: nodes + 1],
        parameters=table.parameters[:words],
        skeleton_start=table.skeleton_start[: nodes + 1],
        skeleton=table.skeleton[:skeleton],
        edge_from=kept(table.edge_from),
        edge_to=kept(table.edge_to),
        edge_from_port=kept(table.edge_from_port),
        edge_to_port=kept(table.edge_to_port),
        edge_type=kept(table.edge_type),
        relocation_word=table.relocation_word[:relocations],
        relocation_region=table.relocation_region[:relocations],
    )


def run(path: Path, base: int, graph: int, nodes: int, wanted: Path, found: Path) -> None:
    """Run the nodes from the memory of a start, and write the blocks of memory that differ."""
    with _Prefix.open(path) as bundle:
        bundle.nodes = nodes
        bundle.manifest = replace(bundle.manifest, graphs=(bundle.manifest.graphs[graph],))
        backend = CudaBackend(bundle, first=0, base=base)
        try:
            backend.launch(0)
            np.savez(found, **_unlike(backend, bundle, wanted))
        finally:
            backend.close()


def _unlike(backend: CudaBackend, bundle: Bundle, wanted: Path) -> dict[str, Any]:
    """`bases` of all regions, and by region number the blocks that differ and their numbers."""
    regions = bundle.manifest.regions
    bases = [backend.tensor(_bytes(index, 0, 0)).address for index in range(len(regions))]
    out = {"bases": np.array(bases, np.uint64)}
    with np.load(wanted) as digest_of:
        for name in digest_of.files:
            index = int(name)

            def read(address: int, size: int, index: int = index) -> bytearray:
                part = _bytes(index, address - bases[index], size)
                return backend.tensor(part).read_bytes()

            there = bases[index], regions[index].peer_stride or regions[index].size
            numbers = np.flatnonzero(digests(read, *there) != digest_of[name])
            # From everywhere, if there are too many.
            numbers = numbers[:: max(1, -(-numbers.size // _MOST))]
            out[f"blocks {name}"] = numbers.astype(np.uint64)
            out[f"words {name}"] = blocks(read, *there, numbers)
    return out


def _bytes(region: int, offset: int, size: int) -> Tensor:
    return Tensor(
        name="", region=region, offset=offset, dtype="uint8", shape=(size,), strides=(1,),
        role="state",
    )  # fmt: skip


if __name__ == "__main__":
    _path, _base, _graph, _nodes, _wanted, _found = sys.argv[1:]
    run(Path(_path), int(_base, 0), int(_graph), int(_nodes), Path(_wanted), Path(_found))
