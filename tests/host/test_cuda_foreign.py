"""What graphs use outside the arena, followed through memory that is made up."""

from __future__ import annotations

import ctypes
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foundryc.cuda import binaries, foreign
from foundryc.cuda.extract import CapturedFunction
from foundryc.cuda.images import foreign_image
from foundryc.cuda.variables import ModuleVariable
from foundryc.template import GraphTable, Spans, address_words, relocations
from foundryrt.bundle.schema import NodeKind, Relocation
from foundryrt.bundle.tables import NO_FUNCTION
from foundryrt.errors import FoundryError, UsageError

ARENA, END = 0x600000000000, 0x610000000000


class Device:
    """Allocations by address, some of them blocks of torch's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory: dict[int, bytes] = {}
        self.blocks: list[tuple[int, int, str]] = []
        monkeypatch.setattr(foreign, "foreign_pointers", self.pointers)
        monkeypatch.setattr(foreign, "torch_blocks", lambda: sorted(self.blocks))
        monkeypatch.setattr(foreign.driver, "call", self.copy)

    def pointers(self, words, base=0, end=0):
        found = []
        for index, word in enumerate(map(int, words)):
            for start, data in self.memory.items():
                if start <= word < start + len(data) and not base <= word < end:
                    found.append(
                        SimpleNamespace(
                            word=index, address=word, start=start, bytes=len(data), memory=2
                        )
                    )
        return found

    def copy(self, name, to, address, size, about=""):
        assert name == "cuMemcpyDtoH"
        start = next(s for s, d in self.memory.items() if s <= address < s + len(d))
        data = self.memory[start][address - start : address - start + size]
        ctypes.memmove(to, data, size)


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def test_what_memory_points_to_is_followed_once(device):
    a, b, c = 0x7F0000000000, 0x7F0000100000, 0x7F0000200000
    device.memory = {
        a: struct.pack("<4Q", 7, b + 8, ARENA + 64, a),  # itself, the arena and b
        b: struct.pack("<2Q", c, 0),
        c: bytes(64),
        0x7F0000300000: bytes(8),  # nobody asks for it
    }
    memory = foreign.ForeignMemory(ARENA, END)
    memory.follow([a + 4, ARENA + 8, a])
    assert [(r.base, r.size, r.owner) for r in memory.regions] == [
        (a, 32, "a library"), (b, 16, "a library"), (c, 64, "a library")
    ]  # fmt: skip
    assert [r.data.size for r in memory.regions] == [32, 8, 0]  # without the zeros at the end
    assert memory.locate(b + 15) == (1, 15) and memory.locate(b + 16) is None
    spans = Spans([(ARENA, 128), *((r.base, r.size) for r in memory.regions)])
    assert relocations(memory.regions[0].data, spans) == (
        Relocation(offset=8, region=2), Relocation(offset=16, region=0),
        Relocation(offset=24, region=1),
    )  # fmt: skip


def test_memory_is_read_in_steps_and_long_zeros_hide_no_address(device, monkeypatch):
    monkeypatch.setattr(foreign, "_STEP", 1 << 20)
    a, far = 0x7F0000000000, (3 << 20) + 8
    words = struct.pack("<2Q", a + 8, 5)
    device.memory = {a: bytes(far) + words + bytes(2 << 20) + words + bytes(16)}
    memory = foreign.ForeignMemory(ARENA, END)
    memory.follow([a])
    (region,) = memory.regions
    last = far + len(words) + (2 << 20)
    assert region.data.tobytes() == device.memory[a][: last + len(words)]
    image = foreign_image(0, region, Spans([(a, region.size)]))
    assert image.relocations == (
        Relocation(offset=far, region=0), Relocation(offset=last, region=0)
    )  # fmt: skip


def test_of_memory_that_will_be_given_nothing_is_kept(device):
    cache, weights, other = 0x7F0000000000, 0x7F0000100000, 0x7F0000200000
    device.memory = {cache: struct.pack("<Q", other), weights: bytes(64), other: bytes([1] * 8)}
    memory = foreign.ForeignMemory(ARENA, END)
    memory.give("cache", cache, 8)
    memory.give("weights of mine", weights, 64)
    memory.follow([cache + 4])
    (region,) = memory.regions  # what nothing uses is none, and no pointer of it is followed
    assert (region.base, region.size, region.name) == (cache, 8, "cache")
    assert region.data.size == 0
    for name, base, size in (
        ("cache", other, 8), ("b", cache + 4, 8), ("state", other, 8), ("foreign 0", other, 8),
        ("", other, 8),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=name or "memory is given as ''"):
            memory.give(name, base, size)


def test_a_block_of_torch_is_taken_in_place_of_its_segment(device):
    segment = 0x7F0000000000
    device.memory = {segment: bytes(512) + bytes([1]) * 512 + bytes(1024)}
    device.blocks = [(segment, 512, "torch, for a.py:3, f"), (segment + 512, 512, "torch")]
    memory = foreign.ForeignMemory(ARENA, END)
    memory.follow([segment + 700, segment])
    assert [(r.base - segment, r.size, r.owner) for r in memory.regions] == [
        (512, 512, "torch"), (0, 512, "torch, for a.py:3, f")
    ]  # fmt: skip
    assert memory.regions[0].data.tobytes() == bytes([1]) * 512


def test_more_than_a_bundle_holds_is_refused(device):
    device.memory = {0x7F0000000000 + (i << 20): bytes([1]) * 8 for i in range(300)}
    memory = foreign.ForeignMemory(ARENA, END)
    with pytest.raises(FoundryError, match="more than 250 allocations"):
        memory.follow(device.memory)


def test_the_user_s_line_is_named(monkeypatch):
    frames = [
        {"filename": torch.__file__, "line": 1, "name": "empty"},
        {"filename": foreign.contextlib.__file__, "line": 2, "name": "__enter__"},
        {"filename": foreign.__file__, "line": 3, "name": "warm_up"},
        {"filename": "/home/somebody/torch/train.py", "line": 42, "name": "make_cache"},
    ]
    blocks = [
        {"address": 512, "size": 512, "state": "active_allocated", "frames": frames},
        {"address": 0, "size": 512, "state": "active_pending_free", "frames": frames[:3]},
        {"address": 1024, "size": 512, "state": "inactive"},
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: [{"blocks": blocks}])
    assert foreign.torch_blocks() == [
        (0, 512, "torch"), (512, 512, "torch, for train.py:42, make_cache")
    ]  # fmt: skip


def test_only_arguments_and_ends_of_copies_can_be_addresses():
    table = GraphTable.of_nodes(
        "g", {},
        kinds=[NodeKind.MEMSET, NodeKind.KERNEL, NodeKind.EMPTY, NodeKind.MEMCPY],
        functions=[NO_FUNCTION, 0, NO_FUNCTION, NO_FUNCTION],
        skeletons=[b"", b"s", b"", b""],
        parameters=[np.full(n, ARENA, np.uint64) for n in (6, 7, 0, 15)],
    )  # fmt: skip
    expected = [0, 10, 11, 12, 13, 14]
    assert np.flatnonzero(address_words(table.columns)).tolist() == expected
    moved = table.relocated(Spans([(ARENA - 64, 64), (ARENA, 8)])).columns
    assert moved["relocation_word"].tolist() == expected
    assert moved["relocation_region"].tolist() == [1] * 6  # it begins there, the other ends


def test_the_address_of_a_module_variable_is_refused(device, monkeypatch):
    device.memory = {0x7F0000000000: bytes([1]) * 4096}
    memory = foreign.ForeignMemory(ARENA, END)
    memory.follow([0x7F0000000000 + 64])
    places = [ModuleVariable("table", 0x7F0000000000 + 4096, 8, b"")]
    monkeypatch.setattr(binaries, "module_variables", lambda module, cubin: places)
    monkeypatch.setattr(binaries, "changed", lambda own: {})
    harvest = SimpleNamespace(binary_of=lambda name, module: b"a cubin")
    found = binaries.Binaries(harvest, memory)
    function = CapturedFunction("kernel", 1, 0, -1, False)
    found.index(function)
    found.refuse_addresses()
    places[:] = [ModuleVariable("table", 0x7F0000000000 + 4088, 8, b"")]
    found = binaries.Binaries(harvest, memory)
    found.index(function)
    with pytest.raises(FoundryError, match="address of the variable 'table' of kernel 'kernel'"):
        found.refuse_addresses()
