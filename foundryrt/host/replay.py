"""A graph as a list of prepared ATen calls over the arena."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload

from foundryrt.bundle.ranks import slab_region
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import DTYPES, NodeKind, Region
from foundryrt.errors import FoundryError
from foundryrt.host import exchange
from foundryrt.host.admitted import check_names
from foundryrt.host.arena import Arena, arena_bytes, extent
from foundryrt.host.limits import check, contents
from foundryrt.host.operators import operator, operator_name
from foundryrt.host.skeleton import View, decode


def arena_view(arena: Arena) -> View:
    """Makes torch tensors over `arena`; each is checked against its bounds."""
    whole = torch.frombuffer(arena.bytes.data, dtype=torch.uint8)
    typed = {name: whole.view(getattr(torch, name)) for name in DTYPES}

    def view(
        address: int, sizes: tuple[int, ...], strides: tuple[int, ...], dtype: str
    ) -> torch.Tensor:
        arena.check(address, sizes, strides, dtype)
        return torch.as_strided(typed[dtype], sizes, strides, address // DTYPES[dtype])

    return view


def _outside(view: View, region: Region) -> View:
    """`view` of all but a region that other processes write to, between a check and its use too."""

    def outside(
        address: int, sizes: tuple[int, ...], strides: tuple[int, ...], dtype: str
    ) -> torch.Tensor:
        tensor = view(address, sizes, strides, dtype)
        end = address + extent(sizes, strides, DTYPES[dtype])
        if address < region.base + region.size and end > region.base:
            raise FoundryError("damaged bundle: its tensor lies in the ranks' slabs")
        return tensor

    return outside


@dataclass(frozen=True)
class Call:
    """One operator call; `results` take its return values, where it has any to keep."""

    function: OpOverload[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[torch.Tensor | None, ...]
    contents: Callable[[], bool] | None
    """What the operator takes on trust of its tensors' contents."""

    def run(self) -> None:
        """Call the operator and keep its results."""
        if self.contents is not None and not self.contents():
            raise FoundryError(f"{operator_name(self.function)}: an index is out of range")
        value = self.function(*self.args, **self.kwargs)
        if self.results:
            self._keep(value)

    def _keep(self, value: Any) -> None:
        returned = flatten(value)
        if len(returned) != len(self.results):
            raise FoundryError(f"{operator_name(self.function)} returned {len(returned)} tensors")
        for target, source in zip(self.results, returned, strict=True):
            if target is None:
                continue
            if target.shape != source.shape or target.dtype != source.dtype:
                raise FoundryError(
                    f"{operator_name(self.function)} returned {source.dtype} {tuple(source.shape)},"
                    f" not {target.dtype} {tuple(target.shape)}"
                )
            target.copy_(source)


def flatten(value: Any) -> list[torch.Tensor]:
    """Every tensor of an operator's return value, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in flatten(item)]
    return []


def bind(name: str, skeleton: bytes, words: Sequence[int], view: View) -> Call:
    """The call of operator `name`, checked against its schema; FoundryError for what is damaged."""
    function = operator(name)
    decoded = decode(skeleton, words, view)
    positional, optional, names, outs = _names(function)
    given = dict(zip(positional, decoded.args, strict=False))
    fits = len(decoded.args) <= len(positional) and not given.keys() & decoded.kwargs.keys()
    arguments = optional | given | decoded.kwargs
    if not fits or arguments.keys() != names:
        raise FoundryError("damaged bundle: its arguments do not fit its schema")
    try:
        check(function, arguments, decoded.results)
    except (AttributeError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise FoundryError(f"damaged bundle: an argument of a wrong type ({error})") from error
    asked = contents(function, arguments)
    kwargs = {key: _fixed(value) if key in outs else value for key, value in decoded.kwargs.items()}
    return Call(function, decoded.args, kwargs, decoded.results, asked)


def _fixed(out: Any) -> Any:
    """`out` as a storage of its own, which ends where it does.

    An operator gives an output of another size the right one, and may find room in the arena:
    over its own indices, which were checked before.
    """
    if isinstance(out, list):
        return [_fixed(tensor) for tensor in out]
    if not isinstance(out, torch.Tensor) or out.is_conj() or out.is_neg():
        return out
    begin = int(out.storage_offset()) * out.itemsize
    end = begin + extent(tuple(out.shape), out.stride(), out.itemsize)
    storage = out.untyped_storage()[begin:end]
    return torch.empty(0, dtype=out.dtype).set_(storage, 0, out.shape, out.stride())


@cache
def _names(
    function: OpOverload[..., Any],
) -> tuple[tuple[str, ...], dict[str, Any], frozenset[str], frozenset[str]]:
    """Of an operator's arguments: positional ones, defaults, all, outputs."""
    declared = function._schema.arguments
    return (
        tuple(a.name for a in declared if not a.kwarg_only),
        {a.name: a.default_value for a in declared if a.has_default_value()},
        frozenset(a.name for a in declared),
        frozenset(a.name for a in declared if a.is_out),
    )


def prepare(bundle: Bundle, index: int, view: View, threads: int) -> Tape:
    """The calls of graph `index`; FoundryError unless each may be made as it is."""
    manifest = bundle.manifest
    graph = manifest.graphs[index]
    label = f"graph {graph.name} {graph.key or ''}".rstrip()
    template = bundle.template(graph.template)
    words = bundle.member(index).apply(template).tolist()
    if any(kind != NodeKind.OPERATOR for kind in template.kind) or len(template.edge_from):
        raise FoundryError(f"damaged bundle: {label} is no list of operator calls")
    skeleton = template.skeleton.tobytes()
    private = _outside(view, slab_region(manifest)) if manifest.ranks else view
    starts, forms = template.parameter_start.tolist(), template.skeleton_start.tolist()
    calls = []
    for i, function in enumerate(template.function.tolist()):
        name = manifest.functions[function].name
        form, own = skeleton[forms[i] : forms[i + 1]], words[starts[i] : starts[i + 1]]
        try:
            calls.append(bind(name, form, own, view if name in exchange.CHECKS else private))
        except FoundryError as error:
            raise FoundryError(f"{label}: node {i}, {name}: {error}") from error
    return Tape(label, calls, threads)


def check_graphs(bundle: Bundle) -> None:
    """Prepare every graph of a host bundle and run none."""
    check_names(bundle.manifest)
    view = arena_view(Arena(arena_bytes(bundle.manifest), reserve=True))
    for index in range(len(bundle.manifest.graphs)):
        prepare(bundle, index, view, 1)


class Tape:
    """Prepared calls in their order; `threads` is the number of threads they were recorded with.

    Reductions are split by thread, so another number could change the last bit of a sum.
    """

    def __init__(self, label: str, calls: Iterable[Call], threads: int) -> None:
        self._label = label
        self._calls = tuple(calls)
        self._steps: tuple[Callable[[], None], ...] = tuple(c.run for c in self._calls)
        self._threads = threads

    def launch(self) -> None:
        """Run every call; FoundryError names the graph, the node and the operator that failed."""
        before = torch.get_num_threads()
        if before != self._threads:
            torch.set_num_threads(self._threads)
        done = 0
        try:
            with torch.inference_mode():
                for done, step in enumerate(self._steps):  # noqa: B007
                    step()
        except (RuntimeError, TypeError, ValueError, IndexError, OverflowError) as error:
            name = operator_name(self._calls[done].function)
            reason = str(error).partition("\n")[0]
            raise FoundryError(f"{self._label}: node {done}, {name}: {reason}") from error
        finally:
            if before != self._threads:
                torch.set_num_threads(before)
