"""A cuda bundle for the stand-in driver: counters in one tensor, raised by three graphs."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.bundle.schema import (
    FORMAT_VERSION,
    Function,
    GraphEntry,
    Kernel,
    Manifest,
    Region,
    Requirements,
    SectionKind,
    Template,
    Tensor,
    Variable,
    Workload,
)
from foundryrt.bundle.tables import (
    MEMBER_COLUMNS,
    NO_FUNCTION,
    TEMPLATE_COLUMNS,
    pack,
)
from foundryrt.bundle.writer import BundleWriter

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
) -> dict[str, Any]:
    words = [len(n[2]) for n in nodes]
    skeletons = [len(n[3]) for n in nodes]
    return {
        "kind": [n[0] for n in nodes],
        "function": [n[1] for n in nodes],
        "parameter_start": np.cumsum([0, *words]),
        "parameters": np.array([w for n in nodes for w in n[2]], np.uint64),
        "skeleton_start": np.cumsum([0, *skeletons]),
        "skeleton": np.frombuffer(b"".join(n[3] for n in nodes), np.uint8),
        "edge_from": [e[0] for e in edges],
        "edge_to": [e[1] for e in edges],
        "edge_from_port": [e[2] for e in edges],
        "edge_to_port": [0] * len(edges),
        "edge_type": [e[2] for e in edges],
        "relocation_word": [],
        "relocation_region": [],
    }


def templates() -> list[dict[str, Any]]:
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


def write(
    path: Path,
    cubins: Sequence[bytes] = (b"FAKE add\0", b"FAKE more\0"),
    variables: Sequence[Variable] = (),
) -> Path:
    """Graphs `step` by=11 and by=25 (members of one template) and `last`."""
    with BundleWriter(path) as writer:
        kernels = tuple(
            Kernel(
                sha256=hashlib.sha256(data).digest(),
                section=writer.add(SectionKind.KERNEL, f"kernel {i}", data, compress=False),
            )
            for i, data in enumerate(cubins)
        )
        parts = []
        for index, columns in enumerate(templates()):
            table, data = pack(columns, TEMPLATE_COLUMNS)
            section = writer.add(SectionKind.TEMPLATE, f"template {index}", data)
            nodes, edges = len(columns["kind"]), len(columns["edge_from"])
            parts.append(Template(section=section, nodes=nodes, edges=edges, columns=table))
        # Word 11 holds count and increment of the first kernel, after 6 words of the memset, 4 of
        # launch dimensions and an address.
        changed = struct.unpack("<Q", struct.pack("<II", COUNT, 15))[0]
        members = (
            ("step", {"by": 11}, 0, [], []),
            ("step", {"by": 25}, 0, [11], [changed]),
            ("last", {}, 1, [], []),
        )
        graphs = []
        for index, (name, key, template, word, value) in enumerate(members):
            table, data = pack({"word": word, "value": np.array(value, np.uint64)}, MEMBER_COLUMNS)
            section = writer.add(SectionKind.MEMBER, f"graph {index}", data)
            graphs.append(
                GraphEntry(name=name, key=key, template=template, section=section, columns=table)
            )
        initial = writer.add(SectionKind.REGION, "state", INITIAL.tobytes())
        writer.finish(
            Manifest(
                format_version=FORMAT_VERSION,
                target="cuda",
                workload=Workload(name="counters", settings={}),
                requirements=Requirements(memory=2 << 20, architecture="sm_90", driver=13000),
                producer={},
                provenance={},
                regions=(
                    Region(name="state", base=STATE, size=4 * COUNT, section=initial),
                    Region(name="io", base=IO, size=8 * COUNT),
                ),
                tensors=tuple(
                    Tensor(
                        name=name,
                        region=region,
                        offset=0,
                        dtype="int32",
                        shape=(COUNT,),
                        strides=(1,),
                        role=role,
                    )
                    for name, region, role in (("state", 0, "state"), ("result", 1, "output"))
                ),
                kernels=kernels,
                variables=tuple(variables),
                functions=(
                    Function(name="add", kernel=0),
                    Function(
                        name="more",
                        kernel=1,
                        max_dynamic_shared=160 << 10,
                        shared_carveout=50,
                        cluster_nonportable=True,
                    ),
                ),
                templates=tuple(parts),
                graphs=tuple(graphs),
            )
        )
    return path
