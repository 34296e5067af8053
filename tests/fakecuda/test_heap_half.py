"""The allocator of captures that are compared: its addresses, and what programs expect of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foundryc.elsewhere import Elsewhere, apart

TRIED = """
import ctypes, errno, json, os, random
from ctypes import POINTER, byref, c_size_t, c_void_p, string_at

libc = ctypes.CDLL(None, use_errno=True)
for name, arguments in {
    "malloc": [c_size_t], "calloc": [c_size_t] * 2, "realloc": [c_void_p, c_size_t],
    "memalign": [c_size_t] * 2, "aligned_alloc": [c_size_t] * 2, "valloc": [c_size_t],
    "strdup": [ctypes.c_char_p],
}.items():
    getattr(libc, name).argtypes, getattr(libc, name).restype = arguments, c_void_p
libc.free.argtypes = libc.malloc_usable_size.argtypes = [c_void_p]
libc.malloc_usable_size.restype = c_size_t
libc.posix_memalign.argtypes = [POINTER(c_void_p), c_size_t, c_size_t]

random = random.Random(int(os.environ["SEED"]))
halves, held, wrong = set(), {}, []
def put(address, size, alignment=16, ours=True):
    ours = ours and alignment <= 128  # the others are the C library's, also when they grow
    if not address or address % alignment or address in held:
        wrong.append(f"{address} of {size}, {alignment}")
    if libc.malloc_usable_size(address) < size:
        wrong.append(f"usable of {size}")
    if ours:
        halves.add(bool(address & alignment))
    filled = bytes([random.randrange(256)]) * size
    ctypes.memmove(address, filled, size)
    held[address] = filled, ours
def take():
    address = random.choice(list(held))
    filled, ours = held.pop(address)
    if string_at(address, len(filled)) != filled:
        wrong.append(f"bytes of {len(filled)}")
    return address, filled, ours
for _ in range(3000):
    size = random.choice([0, 1, 24, 100, 128, 1000, 70_000, random.randrange(1 << 20)])
    alignment = random.choice([16, 32, 64, 128, 256, 4096])
    way = random.randrange(8)
    if way == 0:
        put(libc.malloc(size), size)
    elif way == 1:
        address = libc.calloc(3, size)
        if string_at(address, 3 * size).strip(bytes(1)):
            wrong.append("not zero")
        put(address, 3 * size)
    elif way == 2:
        put(libc.memalign(alignment, size), size, alignment)
    elif way == 3:
        put(libc.aligned_alloc(alignment, size), size, alignment)
    elif way == 4:
        address = c_void_p()
        if libc.posix_memalign(byref(address), alignment, size):
            wrong.append("posix_memalign")
        put(address.value, size, alignment)
    elif way == 5 and held:
        address, filled, ours = take()
        if size:
            address = libc.realloc(address, size)
            common = min(size, len(filled))
            if string_at(address, common) != filled[:common]:
                wrong.append("moved bytes")
            put(address, size, ours=ours)
        else:
            libc.free(address)
    elif held:
        libc.free(take()[0])
for address in held:
    libc.free(address)
libc.free(None)
libc.free(libc.valloc(10))
libc.free(libc.strdup(b"said"))
address = c_void_p(1)
print(json.dumps({
    "halves": sorted(halves),
    "objects": sorted({id(object()) & 16 for _ in range(100)}),
    "wrong": wrong[:5],
    "grown": libc.malloc_usable_size(libc.realloc(None, 40)) >= 40,
    "freed": libc.realloc(libc.malloc(40), 0),
    "too_large": [libc.malloc(2**63), libc.malloc(2**64 - 1), libc.calloc(2**33, 2**33),
                  libc.realloc(libc.malloc(1), 2**64 - 1), libc.memalign(64, 2**64 - 1)],
    "errno": ctypes.get_errno() == errno.ENOMEM,
    "not_a_power": [libc.posix_memalign(byref(address), by, 1) for by in (24, 4)],
    "unchanged": address.value,
    "usable_of_none": libc.malloc_usable_size(None),
}))
"""


def run(script: str, environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True, timeout=100,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("half", [0, 1])
def test_any_program_may_use_it(half: int) -> None:
    told = json.loads(run(TRIED, {**apart(half), "SEED": str(half)}))
    assert told == {
        "halves": [bool(half)], "objects": [16 * half], "wrong": [], "grown": True, "freed": None,
        "too_large": [None] * 5, "errno": True, "not_a_power": [22, 22], "unchanged": 1,
        "usable_of_none": 0,
    }  # fmt: skip


THREADS = """
import concurrent.futures, hashlib, random
def work(seed):
    chosen, kept = random.Random(seed), []
    for _ in range(20_000):
        kept.append(bytes([seed]) * chosen.randrange(3000))
        if len(kept) > 100:
            assert set(kept.pop(chosen.randrange(100))) <= {seed}
    return hashlib.sha256(b"".join(kept)).hexdigest()
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(list(pool.map(work, range(8))))
"""


def test_threads_share_it() -> None:
    assert run(THREADS, apart(0)) == run(THREADS, apart(1)) == run(THREADS, {})


def test_nothing_is_preloaded_beside_another_allocator(monkeypatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so.2")
    assert apart(0) == {"LD_BIND_NOW": "1"}


def test_nothing_is_preloaded_where_the_loader_would_split_the_path(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("foundryc.elsewhere.HEAP", tmp_path / "a folder" / "libfoundryheap.so")
    assert apart(0) == {"LD_BIND_NOW": "1"}


LAZY = """
import ctypes, os, sys
loaded = ctypes.CDLL(None, use_errno=True)
loaded.dlopen.argtypes, loaded.dlopen.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
loaded.dlerror.restype = ctypes.c_char_p
if not loaded.dlopen(sys.argv[1].encode(), os.RTLD_LAZY):
    sys.exit(loaded.dlerror().decode())
"""


def compiled(folder: Path, code: str) -> Path:
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    source, library = folder / "library.c", folder / "library.so"
    source.write_text(code)
    command = [compiler, str(source), "-shared", "-fPIC", "-Wl,-z,lazy", "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def test_a_library_that_lacks_what_nobody_calls_can_be_loaded(tmp_path) -> None:
    library = compiled(tmp_path, "void is_nowhere(void); void calls(void) { is_nowhere(); }")
    said: list[str] = []
    command = [sys.executable, "-c", LAZY, str(library)]
    with Elsewhere(command, tmp_path, said.append) as others:
        others.begin()
    assert len(said) == 1 and "LD_BIND_NOW" in said[0]


DEEP = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
void give_and_take(void) { char* text; if (asprintf(&text, "%d", 5) > 0) free(text); }
"""
BOUND = """
import ctypes, os, sys
ctypes.CDLL(sys.argv[1], mode=os.RTLD_DEEPBIND).give_and_take()
"""


def test_a_library_that_calls_the_c_librarys_allocator_by_itself_can_be_used(tmp_path) -> None:
    command = [sys.executable, "-c", BOUND, str(compiled(tmp_path, DEEP))]
    for half in (0, 1):  # the C library notices; it would look for an arena otherwise
        ended = subprocess.run(
            command, env=os.environ | apart(half), stderr=subprocess.PIPE, text=True, check=False
        )
        assert ended.returncode == -6 and "invalid pointer" in ended.stderr
    said: list[str] = []
    with Elsewhere(command, tmp_path, said.append) as others:
        others.begin()
    assert len(said) == 1 and "exit status -6" in said[0]


GROWN = """
import ctypes, os, random
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.realloc.argtypes, libc.realloc.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_void_p
size = 256 << 20
grown = libc.malloc(size)
ctypes.memset(grown, 7, size)
grown = libc.realloc(grown, size + (1 << 20))
assert ctypes.string_at(grown + size - 9, 9) == bytes([7]) * 9
assert bool(grown & 16) == (os.environ["FOUNDRY_HEAP_HALF"] == "1")
with open("/proc/self/status") as status:
    print(*[line.split()[1] for line in status if line.startswith("VmHWM:")])
"""


@pytest.mark.parametrize("half", [0, 1])
def test_a_large_allocation_grows_without_a_second_one(half: int) -> None:
    assert int(run(GROWN, apart(half))) < 400 << 10  # KiB
