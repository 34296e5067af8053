"""A call's argument structure: what MessagePack holds, and where its words go.

`[arguments, keyword arguments as sorted [name, value] pairs, results]`, values being

| value | meaning | words |
|---|---|---|
| nil | None | 0 |
| `"i"`, `"b"`, `"f"`, `"c"` | int, bool, float, complex | 1, 1, 1, 2 |
| `"y"`, `"v"` | the strided layout, the CPU | 0 |
| `["s", text]`, `["d", dtype]`, `["m", memory format]` | themselves | 0 |
| `["t", dtype, rank, flags]` | tensor; flags 1 conjugate, 2 negative | address, sizes, strides |
| `["l", value, ...]` | a list | its values' |

Results are where the call's return values are copied to; empty where it writes its arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from foundryrt.bundle.schema import DTYPES
from foundryrt.errors import FoundryError

CONJUGATE, NEGATIVE = 1, 2
MEMORY_FORMATS = {
    name: getattr(torch, name)
    for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
_MAXIMUM_DEPTH = 4
_MAXIMUM_RANK = 64

View = Callable[[int, tuple[int, ...], tuple[int, ...], str], torch.Tensor]
"""(address, sizes, strides, dtype) -> tensor; raises FoundryError outside the arena."""


@dataclass(frozen=True)
class Arguments:
    """A call's arguments over real memory, and the tensors that take its results."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[torch.Tensor | None, ...]


class _Words:
    def __init__(self, words: Sequence[int], view: View) -> None:
        self._words = words
        self._next = 0
        self._view = view

    def take(self, count: int = 1) -> tuple[int, ...]:
        taken = tuple(self._words[self._next : self._next + count])
        if len(taken) < count:
            raise FoundryError("damaged bundle: a node has too few parameter words")
        self._next += count
        return taken

    def finish(self) -> None:
        if self._next != len(self._words):
            raise FoundryError("damaged bundle: a node has too many parameter words")

    def value(self, form: object, depth: int = 0) -> Any:
        match form:
            case None:
                return None
            case "i":
                return struct.unpack("<q", struct.pack("<Q", *self.take()))[0]
            case "b":
                return bool(self.take()[0])
            case "f":
                return struct.unpack("<d", struct.pack("<Q", *self.take()))[0]
            case "c":
                return complex(*struct.unpack("<2d", struct.pack("<2Q", *self.take(2))))
            case "y":
                return torch.strided
            case "v":
                return torch.device("cpu")
            case ["s", str(text)]:
                return text
            case ["d", str(name)] if name in DTYPES:
                return getattr(torch, name)
            case ["m", str(name)] if name in MEMORY_FORMATS:
                return MEMORY_FORMATS[name]
            case ["t", str(dtype), int(rank), int(flags)] if (
                0 <= rank <= _MAXIMUM_RANK and flags in _allowed_flags(dtype)
            ):
                return self._tensor(dtype, rank, flags)
            case ["l", *values] if depth < _MAXIMUM_DEPTH:
                return [self.value(v, depth + 1) for v in values]
        raise FoundryError(f"damaged bundle: {str(form)[:60]} is no argument of an operator call")

    def _tensor(self, dtype: str, rank: int, flags: int) -> torch.Tensor:
        address, *rest = self.take(1 + 2 * rank)
        tensor = self._view(address, tuple(rest[:rank]), tuple(rest[rank:]), dtype)
        return flagged(tensor, bool(flags & CONJUGATE), bool(flags & NEGATIVE))


def flagged(tensor: torch.Tensor, conj: bool, neg: bool) -> torch.Tensor:
    """A view of `tensor` that stands for its conjugate, its negative, or both."""
    if conj:
        tensor = torch._conj(tensor)
    return torch._neg_view(tensor) if neg else tensor


def _allowed_flags(dtype: str) -> tuple[int, ...]:
    if dtype.startswith("complex"):
        return (0, CONJUGATE, NEGATIVE, CONJUGATE | NEGATIVE)
    return (0, NEGATIVE) if "float" in dtype else (0,)


def decode(skeleton: bytes, words: Sequence[int], view: View) -> Arguments:
    """Arguments of one call; FoundryError for anything that is not exactly this form."""
    try:
        form = msgspec.msgpack.decode(skeleton)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise FoundryError(f"damaged bundle: a node's skeleton is unreadable ({error})") from error
    match form:
        case [list(args), list(pairs), list(results)]:
            pass
        case _:
            raise FoundryError("damaged bundle: a node's skeleton has another form")
    source = _Words(words, view)
    positional = tuple(source.value(a) for a in args)
    named: dict[str, Any] = {}
    for pair in pairs:
        match pair:
            case [str(name), value] if name not in named:
                named[name] = source.value(value)
            case _:
                raise FoundryError("damaged bundle: a node's keyword argument has another form")
    targets = tuple(source.value(r) for r in results)
    if any(not (t is None or isinstance(t, torch.Tensor)) for t in targets):
        raise FoundryError("damaged bundle: a node's result is no tensor")
    source.finish()
    return Arguments(positional, named, targets)
