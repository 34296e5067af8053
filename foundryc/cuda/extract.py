"""A captured graph as template columns; its functions; foreign pointers among its words."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint64, c_void_p
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foundryc.native import ForeignPointer, FunctionView, check, library
from foundryc.template import Columns
from foundryrt.bundle.tables import NO_FUNCTION, TEMPLATE_COLUMNS
from foundryrt.errors import FoundryError
from foundryrt.native import TemplateView
from foundryrt.printable import quoted

_MEMORY = {1: "pinned host", 2: "device", 3: "array", 4: "managed"}
_SHOWN, _MOST = 8, 4096


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
    """The words that are addresses of device or pinned memory outside [base, end); the first 4096.

    `words` is uint64 [n].
    """
    words = np.ascontiguousarray(words)
    found = (ForeignPointer * _MOST)()
    count = c_uint64()
    check(
        library().foundryc_audit(
            words.ctypes.data, words.size, base, end, found, len(found), byref(count)
        )
    )
    return found[: min(count.value, len(found))]


def refuse_foreign_pointers(graph: CapturedGraph, base: int, end: int) -> None:
    """FoundryError naming kernels and argument words that point outside the arena."""
    pointers = foreign_pointers(graph.columns["parameters"], base, end)
    if pointers:
        more = f" and {len(pointers) - _SHOWN} more" if len(pointers) > _SHOWN else ""
        raise FoundryError(
            "the graph points to memory that a bundle does not restore: "
            + "; ".join(_describe(graph, pointer) for pointer in pointers[:_SHOWN])
            + more
            + "; register the tensors it uses, and warm up inside the recorder"
        )


def _describe(graph: CapturedGraph, pointer: ForeignPointer) -> str:
    starts = graph.columns["parameter_start"]
    node = int(np.searchsorted(starts, pointer.word, side="right")) - 1
    function = int(graph.columns["function"][node])
    name = "a copy" if function == NO_FUNCTION else quoted(graph.functions[function].name)
    return (
        f"node {node} ({name}), word {pointer.word - int(starts[node])}:"
        f" {pointer.address:#x}, {_MEMORY.get(pointer.memory, 'other')} memory of"
        f" {pointer.bytes} bytes at {pointer.start:#x}"
    )
