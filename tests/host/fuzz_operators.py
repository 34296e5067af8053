"""Hostile calls of every admitted operator: which of them leave their tensors?

By hand, over a corpus of operator_samples.py or over bundles, several separated by commas:

    cc -O2 -shared -fPIC -o guard.so tests/host/guard_allocator.c
    LD_PRELOAD=./guard.so PYTHONPATH=. python tests/host/fuzz_operators.py CORPUS [COUNT] [NAME ...]

Recorded calls are changed in a few places (numbers, sizes, strides, addresses, dtypes, contents of
the arena) and run in a child process. Its arena lies between pages without access, and so does
every block that torch allocates with the library above. Prints operator, seed and signal of each
child that ended or did not; `--show NAME SEED` says what a call was.
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import DTYPES
from foundryrt.errors import FoundryError
from foundryrt.host.arena import Arena, arena_bytes
from foundryrt.host.replay import Tape, arena_view, bind

Entry = tuple[str, bytes, list[int], bytes]

PAGE = mmap.PAGESIZE
GUARD = 1 << 30
SECONDS = 10
"""A call that takes longer counts as hanging."""
NUMBERS = (
    0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 100, 255, 1000, 4096, 65535, -1, -2, -3, -5, -100,
    -(1 << 31), (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, 1 << 56, 1 << 62, (1 << 63) - 1,
    -(1 << 63),
)  # fmt: skip
REALS = (0.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("nan"), 2.0, -3.7, 1e18)


class GuardedArena(Arena):
    """An arena between pages without access; `at_end` puts its end, not its begin, beside one."""

    def __init__(self, contents: bytes, at_end: bool) -> None:
        size = max(-(-len(contents) // 64) * 64, 64)
        pages = -(-size // PAGE) * PAGE
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
        base = libc.mmap(None, 2 * GUARD + pages, 0, flags, -1, 0) + GUARD
        libc.mprotect(base, pages, mmap.PROT_READ | mmap.PROT_WRITE)
        begin = base + (pages - size if at_end else 0)
        self.bytes = np.frombuffer((ctypes.c_ubyte * size).from_address(begin), np.uint8)
        self.bytes[: len(contents)] = np.frombuffer(contents, np.uint8)


def parse(skeleton: bytes, words: Sequence[int]) -> list[Any]:
    """The call as a tree: numbers as ["i", n], tensors as ["t", dtype, flags, [address, ...]]."""
    left = list(words)

    def take(count: int) -> list[int]:
        taken = left[:count]
        del left[:count]
        return taken

    def leaf(form: Any) -> Any:
        if form in ("i", "b", "f", "c"):
            return [form, *take(2 if form == "c" else 1)]
        if isinstance(form, list) and form and form[0] == "t":
            return ["t", form[1], form[3], take(1 + 2 * form[2])]
        if isinstance(form, list) and form and form[0] == "l":
            return ["l", *(leaf(item) for item in form[1:])]
        return ["=", form]

    args, pairs, results = msgspec.msgpack.decode(skeleton)
    return [
        [leaf(form) for form in args],
        [[name, leaf(form)] for name, form in pairs],
        [leaf(form) for form in results],
    ]


def build(tree: Sequence[Any]) -> tuple[bytes, list[int]]:
    """Skeleton and words of a tree."""
    words: list[int] = []

    def form(node: Any) -> Any:
        match node[0]:
            case "i" | "b" | "f" | "c":
                words.extend(word & (1 << 64) - 1 for word in node[1:])
                return node[0]
            case "t":
                words.extend(word & (1 << 64) - 1 for word in node[3])
                return ["t", node[1], len(node[3]) // 2, node[2]]
            case "l":
                return ["l", *(form(item) for item in node[1:])]
        return node[1]

    args = [form(node) for node in tree[0]]
    pairs = [[name, form(node)] for name, node in tree[1]]
    results = [form(node) for node in tree[2]]
    return msgspec.msgpack.encode([args, pairs, results]), words


def places(tree: Sequence[Any]) -> list[tuple[list[Any], int]]:
    """Every value of a tree, as the list that holds it and its index there."""
    found: list[tuple[list[Any], int]] = []

    def visit(holder: list[Any], index: int) -> None:
        found.append((holder, index))
        if holder[index][0] == "l":
            for i in range(1, len(holder[index])):
                visit(holder[index], i)

    for i in range(len(tree[0])):
        visit(tree[0], i)
    for pair in tree[1]:
        visit(pair, 1)
    for i in range(len(tree[2])):
        visit(tree[2], i)
    return found


def changed(entry: Entry, seed: int) -> tuple[bytes, list[int], bytes]:
    """The hostile call `seed` of a recorded one: skeleton, words, arena."""
    draw = random.Random(f"{entry[0]} {seed}")
    tree = parse(entry[1], entry[2])
    arena = bytearray(entry[3] or bytes(64))
    every = places(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5))):
        if not every:
            break
        _change(draw, tree, *draw.choice(every), arena)
        every = places(tree)
    return *build(tree), bytes(arena)


def _change(
    draw: random.Random, tree: list[Any], holder: list[Any], index: int, arena: bytearray
) -> None:
    node = holder[index]
    if draw.random() < 0.04:
        holder[index] = draw.choice((["=", None], copy.deepcopy(_any(draw, tree))))
    elif node[0] == "i":
        near = node[1] + draw.choice((-2, -1, 1, 2, node[1]))
        node[1] = draw.choice((draw.choice(NUMBERS), near, draw.randrange(-9, 40)))
    elif node[0] == "b":
        node[1] ^= 1
    elif node[0] in "fc":
        node[1] = struct.unpack("<Q", struct.pack("<d", draw.choice(REALS)))[0]
    elif node[0] == "l":
        _change_list(draw, node)
    elif node[0] == "t":
        _change_tensor(draw, node, arena)


def _any(draw: random.Random, tree: list[Any]) -> Any:
    holder, index = draw.choice(places(tree))
    return holder[index]


def _change_list(draw: random.Random, node: list[Any]) -> None:
    if len(node) > 1 and draw.random() < 0.5:
        del node[draw.randrange(1, len(node))]
    elif len(node) > 1:
        node.insert(draw.randrange(1, len(node)), copy.deepcopy(draw.choice(node[1:])))


def _change_tensor(draw: random.Random, node: list[Any], arena: bytearray) -> None:
    words = node[3]
    rank = len(words) // 2
    itemsize = DTYPES[node[1]]
    match draw.choice("zsskadrncccc"):
        case "z" if rank:
            words[1 + draw.randrange(rank)] = draw.choice((0, 1, 2, 3))
        case "s" if rank:
            place = 1 + draw.randrange(rank)
            words[place] = max(words[place] + draw.choice((-1, 1, -2, 2, 5, -words[place] // 2)), 0)
        case "k" if rank:
            words[1 + rank + draw.randrange(rank)] = draw.choice((0, 1, 2, 3, 5))
        case "a":
            words[0] = draw.randrange(0, len(arena), itemsize)
        case "d":
            node[1] = draw.choice(sorted(DTYPES))
            node[2] = 0
        case "r" if rank and draw.random() < 0.5:
            at = draw.randrange(rank)
            del words[1 + rank + at], words[1 + at]
        case "r":
            words[:] = [words[0], *words[1 : 1 + rank], 1, *words[1 + rank :], 1]
        case "n" if rank:
            # Any number of elements over the same few bytes.
            at = draw.randrange(rank)
            words[1 + at], words[1 + rank + at] = draw.choice((64, 1000, 70000)), 0
        case _:
            _fill(draw, node, arena)


def _fill(draw: random.Random, node: list[Any], arena: bytearray) -> None:
    itemsize, name = DTYPES[node[1]], node[1]
    start = min(node[3][0], len(arena))
    count = draw.choice((1, 2, 4, len(arena)))
    for at in range(start, min(start + count * itemsize, len(arena) - itemsize + 1), itemsize):
        if "int" in name:
            value = draw.choice((draw.choice(NUMBERS), draw.randrange(-3, 12)))
            data = (value & (1 << 8 * itemsize) - 1).to_bytes(itemsize, "little")
        elif name in ("float32", "float64"):
            data = struct.pack("<f" if name == "float32" else "<d", draw.choice(REALS))
        else:
            data = draw.randbytes(itemsize) if name != "bool" else bytes([draw.randrange(2)])
        arena[at : at + itemsize] = data


def call(entry: Entry, seed: int) -> str:
    """Run one hostile call; what became of it."""
    skeleton, words, contents = changed(entry, seed)
    arena = GuardedArena(contents, seed % 2 == 0)
    try:
        Tape("hostile", [bind(entry[0], skeleton, words, arena_view(arena))], 1).launch()
    except (FoundryError, MemoryError) as error:
        return str(error)
    return "ran"


def corpus(paths: Sequence[str]) -> dict[str, list[Entry]]:
    """Recorded calls by operator, of corpus files and of bundles."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for path in paths:
        if path.endswith(".fdy"):
            entries = list(calls_of(path))
        else:
            entries = msgspec.msgpack.decode(Path(path).read_bytes(), type=list[Entry])
        for entry in entries:
            found[entry[0]].append(entry)
    return found


def calls_of(path: str) -> Iterator[Entry]:
    """Every call of a host bundle, with the arena as it begins."""
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        arena = bytearray(arena_bytes(manifest))
        for region in manifest.regions:
            if region.section != -1:
                data = bundle.raw(region.section)
                arena[region.base : region.base + len(data)] = data
        for index, graph in enumerate(manifest.graphs):
            template = bundle.template(graph.template)
            words = bundle.member(index).apply(template).tolist()
            skeleton = template.skeleton.tobytes()
            starts, forms = template.parameter_start.tolist(), template.skeleton_start.tolist()
            for i, function in enumerate(template.function.tolist()):
                yield (
                    manifest.functions[function].name,
                    skeleton[forms[i] : forms[i + 1]],
                    words[starts[i] : starts[i + 1]],
                    bytes(arena),
                )


def search(
    entries: Sequence[Entry], count: int, report: Callable[[int, str], None], most: int = 4
) -> None:
    """Hostile calls 0 to `count` in child processes; `report(seed, how)` each that ended one."""
    done = mmap.mmap(-1, PAGE)
    counter = np.frombuffer(done, np.int64)
    counter[0] = 0
    found = 0
    while counter[0] < count and found < most:
        child = os.fork()
        if child == 0:
            _child(entries, counter, count)
        status = _wait(child, counter)
        if status is not None:
            report(int(counter[0]), status)
            found += 1
            counter[0] += 1


def _child(entries: Sequence[Entry], counter: Any, count: int) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    torch.set_num_threads(1)
    while counter[0] < count:
        seed = int(counter[0])
        call(entries[seed % len(entries)], seed)
        counter[0] += 1
    os._exit(0)


def _wait(child: int, counter: Any) -> str | None:
    seen, since = -1, time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if os.WIFSIGNALED(status):
                return signal.Signals(os.WTERMSIG(status)).name
            return None if os.WEXITSTATUS(status) == 0 else f"exit {os.WEXITSTATUS(status)}"
        if counter[0] != seen:
            seen, since = int(counter[0]), time.monotonic()
        elif time.monotonic() - since > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "HANGS"
        time.sleep(0.002)


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    paths = arguments[0].split(",")
    known = corpus(paths)
    if arguments[1] == "--show":
        entry = known[arguments[2]][int(arguments[3]) % len(known[arguments[2]])]
        skeleton, words, _ = changed(entry, int(arguments[3]))
        print(parse(entry[1], entry[2]), "\n", parse(skeleton, words), flush=True)
        print(call(entry, int(arguments[3])))
        return
    count = int(arguments[1])
    for name in arguments[2:] or sorted(known):
        search(known[name], count, lambda seed, how, n=name: print(n, seed, how, flush=True))


if __name__ == "__main__":
    main(sys.argv[1:])
