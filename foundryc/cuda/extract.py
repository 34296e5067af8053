"""A captured graph as template columns; its functions; words that point out of the arena."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from foundryc.native import FunctionView, StrayView, check, library
from foundryrt.bundle.tables import NO_FUNCTION, TEMPLATE_COLUMNS
from foundryrt.errors import FoundryError
from foundryrt.native import TemplateView

Columns = dict[str, npt.NDArray[Any]]
_MEMORY = {1: "pinned host", 2: "device", 3: "array", 4: "managed"}
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


def audit(graph: CapturedGraph, base: int, end: int) -> list[str]:
    """Descriptions of the parameter words that are addresses outside [base, end)."""
    words = np.ascontiguousarray(graph.columns["parameters"])
    strays = (StrayView * 4096)()
    found = c_uint64()
    check(
        library().foundryc_audit(
            words.ctypes.data, words.size, base, end, strays, len(strays), byref(found)
        )
    )
    return [_describe(graph, stray) for stray in strays[: min(found.value, len(strays))]]


def refuse_strays(graph: CapturedGraph, base: int, end: int) -> None:
    """FoundryError naming kernels and argument words that point outside the arena."""
    strays = audit(graph, base, end)
    if strays:
        more = f" and {len(strays) - _SHOWN} more" if len(strays) > _SHOWN else ""
        raise FoundryError(
            "the graph points to memory that a bundle does not restore: "
            + "; ".join(strays[:_SHOWN])
            + more
            + "; register the tensors it uses, and warm up inside the recorder"
        )


def _describe(graph: CapturedGraph, stray: StrayView) -> str:
    starts = graph.columns["parameter_start"]
    node = int(np.searchsorted(starts, stray.word, side="right")) - 1
    function = int(graph.columns["function"][node])
    name = "a copy" if function == NO_FUNCTION else graph.functions[function].name
    return (
        f"node {node} ({name[:200]}), word {stray.word - int(starts[node])}: {stray.address:#x},"
        f" {_MEMORY.get(stray.memory, 'other')} memory of {stray.bytes} bytes at {stray.start:#x}"
    )
