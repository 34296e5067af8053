"""Triton's binaries name the file of their source; what is left of them for a bundle does not."""

from __future__ import annotations

from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from foundryc.cuda import elf
from foundryc.cuda.prune import prune


@triton.jit
def add_one(x, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at, mask=at < count) + 1, mask=at < count)


def test_a_pruned_binary_holds_no_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    source = triton.compiler.ASTSource(
        add_one, {"x": "*fp32", "count": "i32", "BLOCK": "constexpr"}, {"BLOCK": 128}
    )
    cubin = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
    folder = str(Path(__file__).parent).encode()
    assert folder in cubin
    cut = prune(cubin, {"add_one"})
    assert folder not in cut and Path(__file__).name.encode() not in cut
    assert [s.name for s in elf.symbols(cut) if s.kind == elf.FUNCTION] == ["add_one"]
