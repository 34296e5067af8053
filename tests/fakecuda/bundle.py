"""A cuda bundle for the stand-in driver: counters in one tensor, raised by three graphs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foundryc.capture import Capture, RegionImage
from foundryc.template import Columns, GraphTable
from foundryc.write import write_bundle
from foundryrt.bundle.schema import Function, Requirements, Tensor, Variable
from foundryrt.bundle.tables import NO_FUNCTION

BASE = 0x600000000000
REGION = 1 << 36
STATE, IO = BASE + REGION, BASE + 2 * REGION
COUNT = 16
INITIAL = np.arange(COUNT, dtype=np.uint32)
KERNEL, MEMCPY, MEMSET, EMPTY = 1, 2, 3, 4


def _launch(address: int, increment: int, shared: int = 0) -> list[int]:
    header = struct.pack("<8I", 1, 1, 1, 32, 1, 1, shared, 0)
    return list(struct.unpack("<6Q", header + struct.pack("<QII", address, COUNT, increment)))


def _skeleton(packed: bool, attributes: int = 0) -> bytes:
    head = struct.pack("<IHBB", 16, 3, packed, attributes)
    arguments = struct.pack("<6I", 0, 8, 8, 4, 12, 4)
    return head + arguments + attributes * struct.pack("<II64s", 8, 0, b"\1")


def _columns(
    nodes: Sequence[tuple[int, int, list[int], bytes]], edges: Sequence[tuple[int, int, int]]
) -> Columns:
    return GraphTable.of_nodes(
        "",
        {},
        kinds=[n[0] for n in nodes],
        functions=[n[1] for n in nodes],
        skeletons=[n[3] for n in nodes],
        parameters=[np.array(n[2], np.uint64) for n in nodes],
        edges=[(start, end, port, 0, port) for start, end, port in edges],
    ).columns


def templates() -> list[Columns]:
    """Columns of both templates: a chain of every kind of node, and a single kernel."""
    copy = [STATE, IO, 0, 0, 0, 4 * COUNT, 1, 0, 0, 0, 4 * COUNT, 1, 4 * COUNT, 1, 1]
    chain = _columns(
        [
            (MEMSET, NO_FUNCTION, [IO, 0, 0, 4, COUNT, 1], b""),
            (KERNEL, 0, _launch(STATE, 1), _skeleton(packed=False, attributes=1)),
            (KERNEL, 1, _launch(STATE, 10, shared=100 << 10), _skeleton(packed=True)),
            (EMPTY, NO_FUNCTION, [], b""),
            (MEMCPY, NO_FUNCTION, copy, b""),
        ],
        [(0, 1, 0), (1, 2, 1), (2, 3, 0), (3, 4, 0)],
    )
    single = _columns([(KERNEL, 1, _launch(IO, 1000), _skeleton(packed=True))], [])
    return [chain, single]


def capture(
    cubins: Sequence[bytes] = (b"FAKE add\0", b"FAKE more\0"), variables: Sequence[Variable] = ()
) -> Capture:
    """Graphs `step` by=11 and by=25 (members of one template) and `last`."""
    chain, single = templates()
    # Word 11 holds count and increment of the first kernel, after 6 words of the memset, 4 of
    # launch dimensions and an address.
    words = chain["parameters"].copy()
    words[11] = struct.unpack("<Q", struct.pack("<II", COUNT, 15))[0]
    return Capture(
        target="cuda",
        requirements=Requirements(memory=2 << 20, architecture="sm_90", driver=13000),
        producer={},
        regions=[
            RegionImage("state", STATE, 4 * COUNT, lambda: [INITIAL.tobytes()]),
            RegionImage("io", IO, 8 * COUNT),
        ],
        tensors=[
            Tensor(
                name=name, region=region, offset=0, dtype="int32", shape=(COUNT,), strides=(1,),
                role=role,
            )
            for name, region, role in (("state", 0, "state"), ("result", 1, "output"))
        ],
        functions=[
            Function(name="add", kernel=0),
            Function(
                name="more", kernel=1, max_dynamic_shared=160 << 10, shared_carveout=50,
                cluster_nonportable=True,
            ),
        ],
        graphs=[
            GraphTable("step", {"by": 11}, chain),
            GraphTable("step", {"by": 25}, chain | {"parameters": words}),
            GraphTable("last", {}, single),
        ],
        kernels=cubins,
        variables=variables,
    )  # fmt: skip


def write(
    path: Path,
    cubins: Sequence[bytes] = (b"FAKE add\0", b"FAKE more\0"),
    variables: Sequence[Variable] = (),
) -> Path:
    """The bundle of `capture`."""
    write_bundle(path, capture(cubins, variables), "counters", {}, {})
    return path
