"""Binding of the native runtime core: a bundle's kernels and templates to launchable graphs."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from foundryrt.addresses import address_of
from foundryrt.bundle.schema import Function, Region, Variable
from foundryrt.bundle.tables import MemberTable, TemplateTable
from foundryrt.cuda_errors import explain
from foundryrt.errors import FoundryError
from foundryrt.native.core import load_core
from foundryrt.undo import Held, Undo

_PATH = Path(__file__).parent / "libfoundryrt.so"
_NONE = 0xFFFFFFFF
_SPENT = ("load", "resolve", "build", "instantiate", "upload")


class Relocations(ctypes.Structure):
    """`foundry_relocations` of native/placement.hpp: which words are addresses, in which region."""

    _fields_ = (("count", c_uint64), ("word", c_void_p), ("region", c_void_p))


class Place(ctypes.Structure):
    """`foundry_place` of native/placement.hpp: a region of the capture, and how far it moved."""

    _fields_ = (("base", c_uint64), ("size", c_uint64), ("delta", c_uint64))


class TemplateView(ctypes.Structure):
    """`foundry_template` of native/tables.hpp: counts, then a pointer to each column."""

    _fields_ = (
        ("nodes", c_uint32), ("edges", c_uint32), ("functions", c_uint32),
        ("skeleton_bytes", c_uint32), ("words", c_uint64),
        ("kind", c_void_p), ("function", c_void_p), ("parameter_start", c_void_p),
        ("parameters", c_void_p), ("edge_from", c_void_p), ("edge_to", c_void_p),
        ("edge_from_port", c_void_p), ("edge_to_port", c_void_p), ("edge_type", c_void_p),
        ("skeleton", c_void_p), ("skeleton_start", c_void_p), ("relocations", Relocations),
    )  # fmt: skip


class FileRange(ctypes.Structure):
    """`foundry_file_range` of native/upload.hpp: rows of bytes of a file, and where they go."""

    _fields_ = (
        ("address", c_uint64), ("offset", c_uint64), ("width", c_uint64), ("rows", c_uint64),
        ("pitch", c_uint64), ("file", c_int32), ("spare", c_int32),
    )  # fmt: skip


class Buffer(ctypes.Structure):
    """`foundry_staging_buffer` of native/upload.hpp: pinned, with the event after its last copy."""

    _fields_ = (("memory", c_void_p), ("bytes", c_uint64), ("event", c_void_p))


VIEW_COLUMNS = [name for name, kind in TemplateView._fields_ if kind is c_void_p]
"""Names of the columns that a TemplateView points at."""


@cache
def library() -> ctypes.CDLL:
    """The loaded core; FoundryError where it was not built."""
    loaded = load_core(_PATH)
    loaded.foundry_error.restype = c_char_p
    loaded.foundry_create.argtypes = (
        c_uint32, c_uint32, c_uint32, c_uint32, c_uint64, POINTER(c_void_p),
    )  # fmt: skip
    loaded.foundry_touch.argtypes = (c_void_p,)
    loaded.foundry_touch.restype = None
    loaded.foundry_destroy.argtypes = (c_void_p,)
    loaded.foundry_destroy.restype = None
    loaded.foundry_set_kernel.argtypes = (
        c_void_p, c_uint32, c_void_p, c_uint64, c_char_p, c_uint64,
    )  # fmt: skip
    loaded.foundry_set_function.argtypes = (
        c_void_p, c_uint32, c_char_p, c_uint32, c_int, c_int, c_int,
    )  # fmt: skip
    loaded.foundry_set_template.argtypes = (c_void_p, c_uint32, POINTER(TemplateView))
    loaded.foundry_set_graph.argtypes = (
        c_void_p, c_uint32, c_char_p, c_uint32, c_uint64, c_void_p, c_void_p,
    )  # fmt: skip
    loaded.foundry_require.argtypes = (c_void_p, c_uint32, POINTER(c_void_p))
    loaded.foundry_prefer.argtypes = (c_void_p, c_uint32)
    loaded.foundry_pause.argtypes = (c_void_p, c_int)
    loaded.foundry_resolve.argtypes = (c_void_p,)
    loaded.foundry_keep_loaded.argtypes = (c_int,)
    loaded.foundry_keep_loaded.restype = None
    loaded.foundry_set_variable.argtypes = (
        c_void_p, c_uint32, c_char_p, c_void_p, c_uint64, POINTER(Relocations),
    )  # fmt: skip
    loaded.foundry_start.argtypes = (c_void_p, c_void_p, c_uint32, POINTER(Place), c_uint32)
    loaded.foundry_abandon.argtypes = (c_void_p, c_char_p)
    loaded.foundry_abandon.restype = None
    loaded.foundry_ready.argtypes = (c_void_p,)
    loaded.foundry_ready.restype = c_uint32
    loaded.foundry_is_ready.argtypes = (c_void_p, c_uint32, POINTER(c_uint32))
    loaded.foundry_spent.argtypes = (c_void_p, POINTER(c_uint64))
    loaded.foundry_spent.restype = None
    loaded.foundry_stream.argtypes = (
        c_void_p, c_void_p, POINTER(Buffer), c_uint32, c_uint32, POINTER(FileRange), c_uint64,
    )  # fmt: skip
    loaded.foundry_wait.argtypes = (c_void_p, c_uint32, c_uint32, POINTER(c_uint32))
    return loaded


def check(code: int) -> None:
    """FoundryError with the core's message, unless a call of it has returned 0."""
    if code != 0:
        raise FoundryError(explain(code, library().foundry_error().decode(errors="replace")))


def stream(
    context: int, queue: int, buffers: Sequence[Buffer], threads: int, ranges: Sequence[FileRange]
) -> None:
    """Read every range through the buffers and queue its copies on the stream `queue`.

    FoundryError for a driver call that fails and a file that cannot be read or ends early.
    """
    check(
        library().foundry_stream(
            context, queue, (Buffer * len(buffers))(*buffers), len(buffers), threads,
            (FileRange * len(ranges))(*ranges), len(ranges),
        )
    )  # fmt: skip


def keep_loaded(keep: bool = True) -> None:
    """Whether kernels of the bundle that was closed last stay loaded, in a context that stays.

    `False` frees them; the context must be current.
    """
    library().foundry_keep_loaded(keep)


def _relocations(words: memoryview | array[int], regions: memoryview | array[int]) -> Relocations:
    return Relocations(len(words), address_of(words), address_of(regions))


class Materializer:
    """Libraries, functions, template graphs and execs of one bundle; `close` or `undo` frees them.

    `nodes`: how many all graphs have together, for which `touch` takes host memory. A kernel's
    bytes must be given before a graph that uses it.
    """

    def __init__(
        self, kernels: int, functions: int, templates: int, graphs: int, nodes: int, undo: Undo
    ) -> None:
        self._library = library()
        self._functions = functions
        self._keep: list[Any] = []
        self._handle = c_void_p()
        self._held = Held()
        undo.push(self.close)
        check(
            self._held.take(
                self._library.foundry_create,
                kernels, functions, templates, graphs, nodes, byref(self._handle),
            )
        )  # fmt: skip

    def touch(self) -> None:
        """Have native threads touch host memory for all nodes."""
        self._library.foundry_touch(self._handle)

    def set_kernel(self, index: int, data: memoryview, key: bytes = b"") -> None:
        """Give a kernel's cubin, loaded once for all open bundles that have one of this `key`.

        One with variables is loaded for this bundle alone. A key stands for the cubin and for the
        attributes of its functions.
        """
        self._keep.append(data)
        check(
            self._library.foundry_set_kernel(
                self._handle, index, address_of(data), data.nbytes, key, len(key)
            )
        )

    def set_function(self, index: int, function: Function) -> None:
        """Declare function `index` with its state."""
        check(
            self._library.foundry_set_function(
                self._handle, index, function.name.encode(), function.kernel,
                function.max_dynamic_shared, function.shared_carveout, function.cluster_nonportable,
            )
        )  # fmt: skip

    def set_template(self, index: int, table: TemplateTable) -> None:
        """Give template `index`; FoundryError where its columns contradict each other."""
        view = TemplateView(
            len(table.kind), len(table.edge_from), self._functions, len(table.skeleton),
            len(table.parameters),
            *(address_of(getattr(table, name)) for name in VIEW_COLUMNS),
            _relocations(table.relocation_word, table.relocation_region),
        )  # fmt: skip
        self._keep.append(table)
        check(self._library.foundry_set_template(self._handle, index, byref(view)))

    def set_graph(self, index: int, name: str, template: int, member: MemberTable) -> None:
        """Declare graph `index`, a member of `template`; `name` is for error messages."""
        self._keep.append(member)
        check(
            self._library.foundry_set_graph(
                self._handle, index, name.encode(), template, len(member.word),
                address_of(member.word), address_of(member.value),
            )
        )  # fmt: skip

    def require(self, graph: int) -> int:
        """The CUgraphExec of a graph, made now if need be, ahead of the others; after `start`."""
        executable = c_void_p()
        check(self._library.foundry_require(self._handle, graph, byref(executable)))
        return executable.value or 0

    def prefer(self, graph: int) -> None:
        """Have a graph made next, once it is declared, unless it is being made already."""
        check(self._library.foundry_prefer(self._handle, graph))

    def pause(self, paused: bool) -> None:
        """Whether threads are to begin preferred graphs alone; `require` still makes any."""
        check(self._library.foundry_pause(self._handle, paused))

    def resolve(self) -> None:
        """Load all functions and check all addresses: then only the driver can fail to make one."""
        check(self._library.foundry_resolve(self._handle))

    def set_variable(self, variable: Variable) -> None:
        """What a variable of a kernel binary gets as soon as the binary is loaded."""
        words = array("I", [relocation.offset // 8 for relocation in variable.relocations])
        regions = array("B", [relocation.region for relocation in variable.relocations])
        self._keep.append((variable, words, regions))
        check(
            self._library.foundry_set_variable(
                self._handle, variable.kernel, variable.name.encode(), variable.data,
                len(variable.data), byref(_relocations(words, regions)),
            )
        )  # fmt: skip

    def start(
        self, context: int, first: int | None, regions: Sequence[Region], deltas: Sequence[int]
    ) -> None:
        """Make all graphs in a CUcontext, `first` before the others, each once it is set.

        `deltas`: how many bytes, modulo 2^64, every region lies from where it was at capture.
        """
        number = _NONE if first is None else first
        places = (Place * len(regions))(
            *(Place(r.base, r.size, d) for r, d in zip(regions, deltas, strict=True))
        )
        check(self._library.foundry_start(self._handle, context, number, places, len(places)))

    def abandon(self, message: str) -> None:
        """No more graphs will be set: `wait` raises this message."""
        self._library.foundry_abandon(self._handle, message.encode())

    @property
    def ready(self) -> int:
        """How many graphs can be launched."""
        return int(self._library.foundry_ready(self._handle))

    def is_ready(self, graph: int) -> bool:
        """Whether a graph can be launched at once."""
        found = c_uint32()
        check(self._library.foundry_is_ready(self._handle, graph, byref(found)))
        return bool(found.value)

    def wait(self, count: int, milliseconds: int) -> int:
        """Block until `count` graphs are ready or the time is over; how many are.

        FoundryError where a background thread failed.
        """
        found = c_uint32()
        check(self._library.foundry_wait(self._handle, count, milliseconds, byref(found)))
        return int(found.value)

    @property
    def spent(self) -> dict[str, float]:
        """Seconds spent so far in each kind of work for the driver, on any thread."""
        times = (c_uint64 * len(_SPENT))()
        self._library.foundry_spent(self._handle, times)
        return {name: time / 1e9 for name, time in zip(_SPENT, times, strict=True)}

    def close(self) -> None:
        """Stop the threads and free everything; the context must still exist."""
        self._held.release(self._library.foundry_destroy, self._handle)
        self._handle = c_void_p()
        self._keep.clear()


__all__ = [
    "VIEW_COLUMNS", "Buffer", "FileRange", "Materializer", "TemplateView", "keep_loaded", "library",
    "stream",
]  # fmt: skip
