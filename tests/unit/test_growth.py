"""Whether something of a capture depends on how many rows a growing tensor has."""

from __future__ import annotations

import struct
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from foundryc.capture import Capture, RegionImage
from foundryc.compare import compare
from foundryc.compare.growth import dependence
from foundryc.elsewhere import between
from foundryc.template import GraphTable
from foundryrt.bundle.schema import Function, Growth, Relocation, Requirements, Tensor, Variable

BASE, FOREIGN = 0x600000000000, 0x7F0000000000
ROWS, MOST, ROW = 4, 6, 512
KERNEL = 1


def skeleton() -> bytes:
    return struct.pack("<IHBB", 48, 4, 0, 0) + struct.pack("<8I", 0, 8, 8, 8, 16, 8, 24, 24)


def capture(
    moved: int = 0, rows: int = ROWS, count: int = 7, offset: int = ROW, word: int = 5,
    variable: int = 3, noise: int = 9, sizes: int = 0, gap: int = 0x795,
) -> Capture:  # fmt: skip
    """A kernel with the address of a row of `kv`, a number, noise, and a struct with a gap."""
    io, kv = BASE + moved, FOREIGN + 3 * moved
    words = [1, 1, 1, 0, kv + offset, count, noise, 4, gap, 4]
    graph = GraphTable.of_nodes(
        "decode", {"batch": 2}, [KERNEL], [0], [skeleton()], [np.array(words, np.uint64)]
    )
    columns = graph.columns | {
        "relocation_word": np.array([4], np.uint32), "relocation_region": np.array([1], np.uint8)
    }  # fmt: skip
    first = struct.pack("<QQ", kv, word)
    return Capture(
        target="cuda",
        requirements=Requirements(memory=64 + rows * ROW, architecture="sm_90", driver=13000),
        producer={},
        regions=[
            RegionImage(
                "io", io, 64 + sizes, lambda: [first],
                relocations=(Relocation(offset=0, region=1),),
            ),
            RegionImage("foreign 0", kv, rows * ROW, owner="tensor kv"),
        ],
        tensors=[
            Tensor(
                name="kv", region=1, offset=0, dtype="uint8", shape=(rows, ROW), strides=(ROW, 1),
                role="state",
            )
        ],
        functions=[Function(name="attend", kernel=0)],
        graphs=[replace(graph, columns=columns)],
        kernels=[b"x"],
        variables=[Variable(kernel=0, name="n", data=struct.pack("<Q", variable))],
        growing=[Growth(tensor=0, most=MOST)],
    )  # fmt: skip


MOVED = 0x20000600000


def found(**changes: int) -> str:
    three = capture(), capture(noise=1234567), capture(MOVED, noise=7654321)
    compared = compare(*three)
    assert compared.growing == three[0].growing
    return dependence(*three, capture(**{"rows": MOST, "noise": 55, **changes}))


def test_nothing_depends_on_the_rows():
    assert found() == ""
    assert found(moved=0x1000000000) == ""  # wherever it lies


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"count": 8}, r"graph decode[batch=2], node 0, kernel 'attend': argument 1, byte 0 of 8"
                       " depends on how many there are (0x7, with more rows 0x8)"),
        ({"count": 7 + (1 << 40)}, "argument 1, byte 5 of 8"),
        ({"offset": 3 * ROW}, "argument 0, byte 0 of 8 depends on how many there"
                                " are ('foreign 0'+0x200, with more rows 'foreign 0'+0x600)"),
        ({"word": 6}, "region 'io', byte 8 depends on how many there are (0x5, with more rows 0x6"),
        ({"variable": 4}, "variable 'n' of binary 0, byte 0 depends on how many"),
        ({"sizes": 64}, "with more rows, region 0 is 'io, 64 bytes' and 'io, 128 bytes'"),
    ],
    ids=["argument", "byte", "address", "memory", "variable", "size"],
)  # fmt: skip
def test_what_depends_is_named(changes, reason):
    assert reason in found(**changes)


def test_what_a_struct_has_for_other_numbers_of_rows_alike_is_residue():
    three = [capture(), capture(noise=1234567), capture(MOVED, noise=7654321)]
    half = between(ROWS, MOST)
    assert half not in (ROWS, MOST)
    more = {"noise": 55, "gap": 0x120}
    grown = capture(rows=MOST, **more)
    assert "argument 3, byte 8 of 24 depends" in dependence(*three, grown)
    assert dependence(*three, grown, capture(rows=half, **more)) == ""
    for changes, reason in (
        ({"gap": 0x121}, "argument 3, byte 8 of 24 depends"),
        ({"rows": MOST}, "with more rows, tensor 0 is"),
        ({"sizes": 64}, "with more rows, region 0 is"),
    ):
        some = capture(**{"rows": half, **more, **changes})
        assert reason in dependence(*three, grown, some)
    # What may be an address of the process's own stack is residue at once.
    three = [capture(gap=0), capture(gap=0, noise=1), capture(MOVED, gap=0, noise=2)]
    assert dependence(*three, capture(rows=MOST, gap=0x7FFF16B11130)) == ""
    assert "argument 3" in dependence(*three, capture(rows=MOST, gap=0x7F16B11130))
    assert "argument 1" in dependence(*three, capture(rows=MOST, count=0x7FFF16B11130))
    three = [capture(), capture(noise=1234567), capture(MOVED, noise=7654321)]
    # A number or a pointer has no gap, and memory none either.
    for changes in ({"count": 8}, {"word": 6}, {"variable": 4}, {"offset": 3 * ROW}):
        grown, some = (capture(**{"rows": rows, **more, **changes}) for rows in (MOST, half))
        assert "depends" in dependence(*three, grown, some)


def test_another_program_is_no_growth():
    three = [capture() for _ in range(3)]
    other = capture(rows=MOST)
    assert dependence(*three, replace(other, graphs=[])).startswith("with more rows, graph 0 is")
    assert dependence(*three, replace(other, tensors=[])).startswith("with more rows, region 1 is")
    # A program that has not as many rows as it was told to have shows nothing.
    reason = dependence(*three, capture(rows=MOST - 1))
    assert reason.startswith("with more rows, tensor 0 is ") and f"({ROWS - 1}, {ROW})" in reason
    renamed = [msgspec.structs.replace(other.tensors[0], name="x")]
    assert dependence(*three, replace(other, tensors=renamed)).startswith(
        "with more rows, tensor 0"
    )
