"""CUDA sources to cubins by the NVRTC that torch brings; needs no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

import foundryc
from foundryc.cuda import elf
from foundryc.cuda.kernels import compile_source
from foundryrt.cuda.digest import CHUNKS, TREE
from foundryrt.errors import FoundryError

SOURCE = Path(foundryc.__file__).parent / "cuda" / "digest.cu"


def compiled(source: Path) -> bytes:
    try:
        return compile_source(source.read_bytes(), source.name, "sm_90")
    except FoundryError as error:
        if "libnvrtc is not here" in str(error):
            pytest.skip(str(error))
        raise


def test_the_digest_kernels_compile_under_the_names_that_are_asked_for():
    found = {s.name for s in elf.symbols(compiled(SOURCE)) if s.kind == elf.FUNCTION}
    assert {CHUNKS, TREE} <= found


def test_equal_sources_give_equal_binaries():
    assert compiled(SOURCE) == compiled(SOURCE)


def test_the_compilers_words_are_passed_on(tmp_path):
    bad = tmp_path / "bad.cu"
    bad.write_text('extern "C" __global__ void f() { undeclared = 1; }')
    with pytest.raises(FoundryError, match=r"bad\.cu: .*\n.*undeclared"):
        compiled(bad)
