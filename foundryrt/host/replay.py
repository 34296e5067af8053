"""A graph as a list of prepared ATen calls over the arena."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from foundryrt.bundle.schema import DTYPES
from foundryrt.errors import FoundryError
from foundryrt.host.arena import Arena
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


@dataclass(frozen=True)
class Call:
    """One operator call; `results` take its return values, where it has any to keep."""

    function: OpOverload[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[torch.Tensor | None, ...]

    def run(self) -> None:
        """Call the operator and keep its results."""
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
    declared = function._schema.arguments
    positional = [a.name for a in declared if not a.kwarg_only]
    given = set(positional[: len(decoded.args)])
    unknown = set(decoded.kwargs) - ({a.name for a in declared} - given)
    missing = {a.name for a in declared if not a.has_default_value()} - given - set(decoded.kwargs)
    if len(decoded.args) > len(positional) or unknown or missing:
        raise FoundryError(f"damaged bundle: the arguments of {name} do not fit its schema")
    return Call(function, decoded.args, decoded.kwargs, decoded.results)


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
