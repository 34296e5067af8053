"""A captured graph as template columns; its functions; pointers among its words."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint64, c_void_p
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foundryc.native import ForeignPointer, FunctionView, check, library
from foundryc.template import Columns, address_words
from foundryrt.bundle.tables import NO_FUNCTION, TEMPLATE_COLUMNS
from foundryrt.errors import FoundryError
from foundryrt.native import TemplateView
from foundryrt.printable import quoted

DEVICE = 2
MEMORY = {1: "pinned host", DEVICE: "device", 3: "array", 4: "managed"}
"""Kinds of memory, by CUmemorytype."""
_SHOWN = 8


@dataclass(frozen=True)
class CapturedFunction:
    """A function that nodes call, with its module's handle and its state."""

    name: str
    module: int
    max_dynamic_shared: int
    carveout: int
    nonportable: bool


@dataclass(frozen=True)
class CapturedGraph:
    """Columns (foundryrt.bundle.tables.TEMPLATE_COLUMNS); `function` indexes `functions`."""

    columns: Columns
    functions: tuple[CapturedFunction, ...]


def extract(graph: int) -> CapturedGraph:
    """Copy a CUgraph; FoundryError names what in it a bundle cannot keep."""
    core = library()
    handle = c_void_p()
    check(core.foundryc_extract(graph, byref(handle)))
    try:
        view = TemplateView()
        core.foundryc_columns(handle, byref(view))
        lengths = {
            "kind": view.nodes, "function": view.nodes, "parameter_start": view.nodes + 1,
            "skeleton_start": view.nodes + 1, "parameters": view.words,
            "skeleton": view.skeleton_bytes,
        }  # fmt: skip
        columns = {}
        for name, kind in TEMPLATE_COLUMNS.items():
            if name.startswith("relocation"):
                columns[name] = np.empty(0, f"<{kind}")
                continue
            count = lengths.get(name, view.edges)
            dtype = np.dtype(f"<{kind}")
            data = (
                ctypes.string_at(getattr(view, name) or 0, count * dtype.itemsize) if count else b""
            )
            columns[name] = np.frombuffer(data, dtype)
        functions = tuple(_function(handle, index) for index in range(view.functions))
    finally:
        core.foundryc_extracted_free(handle)
    if not (columns["edge_from"] < columns["edge_to"]).all():
        raise FoundryError("the captured graph's nodes are not in topological order")
    return CapturedGraph(columns, functions)


def _function(graph: c_void_p, index: int) -> CapturedFunction:
    view = FunctionView()
    check(library().foundryc_function_at(graph, index, byref(view)))
    return CapturedFunction(
        view.name.decode(), view.module, view.shared, view.carveout, bool(view.nonportable)
    )


def foreign_pointers(
    words: npt.NDArray[np.uint64], base: int = 0, end: int = 0
) -> list[ForeignPointer]:
    """The words that are addresses of device or host memory the driver knows, but for [base, end).

    `words` is uint64 [n]; `word` of a result counts within it.
    """
    words = np.ascontiguousarray(words)
    count = c_uint64()
    most = 1024
    while True:
        found = (ForeignPointer * most)()
        check(
            library().foundryc_audit(
                words.ctypes.data, words.size, base, end, found, most, byref(count)
            )
        )
        if count.value <= most:
            return found[: count.value]
        most = count.value


def foreign_addresses(graph: CapturedGraph, base: int, end: int) -> list[int]:
    """Addresses of device memory outside [base, end) that nodes are given, in the nodes' order.

    FoundryError naming kernels and argument words that point to memory of another kind.
    """
    columns = graph.columns
    at = np.flatnonzero(address_words(columns))
    pointers = foreign_pointers(columns["parameters"][at], base, end)
    for pointer in pointers:
        pointer.word = int(at[pointer.word])
    others = [pointer for pointer in pointers if pointer.memory != DEVICE]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise FoundryError(
            "the graph points to memory that a bundle does not restore: "
            + "; ".join(_describe(graph, pointer) for pointer in others[:_SHOWN])
            + more
            + "; copy what it needs to device memory before the graph"
        )
    return [pointer.address for pointer in pointers]


def _describe(graph: CapturedGraph, pointer: ForeignPointer) -> str:
    starts = graph.columns["parameter_start"]
    node = int(np.searchsorted(starts, pointer.word, side="right")) - 1
    function = int(graph.columns["function"][node])
    name = "a copy" if function == NO_FUNCTION else quoted(graph.functions[function].name)
    return (
        f"node {node} ({name}), word {pointer.word - int(starts[node])}:"
        f" {pointer.address:#x}, {MEMORY.get(pointer.memory, 'other')} memory of"
        f" {pointer.bytes} bytes at {pointer.start:#x}"
    )
