"""Which binary a function came from: by its module's handle, else by a name that only one has."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from foundryc.cuda import harvest
from foundryc.cuda.harvest import Harvest, Module
from foundryrt.errors import FoundryError


class Native:
    """The native harvest, with modules by handle."""

    def __init__(self, handles: dict[int, int], modules: int) -> None:
        self.handles = handles
        self.modules = modules

    def foundryc_module_count(self) -> int:
        return self.modules

    def foundryc_find_module(self, handle: int, found) -> int:
        found._obj.value = self.handles.get(handle, -1)
        return 0


@pytest.fixture
def make(monkeypatch):
    def harvested(cubins: list[bytes], names: list[set[str]], handles: dict[int, int]) -> Harvest:
        monkeypatch.setattr(harvest, "library", lambda: Native(handles, len(cubins)))
        made = Harvest()
        made._modules = [Module(cubin, f"call {i}", False) for i, cubin in enumerate(cubins)]
        made._names = [frozenset(own) for own in names]
        return made

    return harvested


def test_the_handle_decides_between_binaries_of_one_name(make):
    found = make([b"a", b"b"], [{"scale"}, {"scale"}], {7: 0, 8: 1})
    assert found.binary_of("scale", 7) == b"a"
    assert found.binary_of("scale", 8) == b"b"


def test_an_unknown_handle_is_no_matter_where_all_candidates_are_one_binary(make):
    found = make([b"a", b"a", b"b"], [{"scale"}, {"scale"}, {"other"}], {})
    assert found.binary_of("scale", 99) == b"a"


def test_several_binaries_of_one_name_are_refused_with_the_calls_that_loaded_them(make):
    found = make([b"a", b"b"], [{"scale"}, {"scale"}], {})
    with pytest.raises(FoundryError, match=r"scale: 2 different binaries .*call 0, call 1"):
        found.binary_of("scale", 99)


def test_a_function_of_no_binary_is_refused(make):
    with pytest.raises(FoundryError, match="0 different binaries"):
        make([b"a"], [{"scale"}], {7: 0}).binary_of("missing", 7)


def test_symbols_of_a_real_cubin():
    cubin = (Path(__file__).parent / "data" / "kernels.cubin").read_bytes()
    found = {s.name: s for s in harvest.elf.symbols(cubin)}
    assert found["start"].initial == struct.pack("<4f", 1, 2, 3, 4)
    assert (found["counter"].size, found["counter"].initial) == (4, b"")
    assert found["first"].kind == harvest.elf.FUNCTION
