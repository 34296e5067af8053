"""`foundryrt run` of a bundle that was captured from a script: each graph once, and what it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundryrt.console import print_table

if TYPE_CHECKING:
    from foundryrt.bundle.schema import Tensor
    from foundryrt.session import Session

_SHOWN = ("input", "state", "output")


@dataclass(frozen=True)
class Options:
    """A script's graphs are launched with what their memory begins with."""


def run(session: Session, options: Options, json: bool) -> dict[str, Any]:
    """Launch the graphs in the order of the script; names, dtypes and shapes of their tensors.

    Drives any bundle: `foundryrt run BUNDLE.fdy --workload script`.
    """
    for name, key in session.graphs:
        session.graph(name, **key).launch()
    session.synchronize()
    shown = [tensor for tensor in session.tensors if tensor.role in _SHOWN]
    result = {
        "graphs": [
            {"graph": name, "key": key, "tensors": [_fields(t) for t in shown if t.graph == index]}
            for index, (name, key) in enumerate(session.graphs)
        ],
        "shared": [_fields(tensor) for tensor in shown if tensor.graph == -1],
    }
    if not json:
        owners = [*map(_label, session.graphs), "all"]  # -1 is the last
        shown.sort(key=lambda tensor: tensor.graph % len(owners))
        rows = [(owners[t.graph], *_fields(t).values()) for t in shown]
        title = f"{len(session.graphs)} graphs ran"
        print_table(title, ("graph", "name", "role", "dtype", "shape"), rows)
    return result


def _fields(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name, "role": tensor.role, "dtype": tensor.dtype,
        "shape": list(tensor.shape),
    }  # fmt: skip


def _label(graph: tuple[str, dict[str, int | str]]) -> str:
    name, key = graph
    return f"{name}({', '.join(f'{k}={v}' for k, v in key.items())})"
