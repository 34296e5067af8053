"""A recorded call as bytes: the inverse of foundryrt/host/skeleton.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch

from foundryc.host.buffers import Buffer, TensorRef, dtype_name
from foundryrt.host.skeleton import CONJUGATE, MEMORY_FORMATS, NEGATIVE

_FORMAT_NAMES = {value: name for name, value in MEMORY_FORMATS.items()}


class NotEncodable(Exception):
    """An argument of a type that a bundle cannot hold."""


@dataclass(frozen=True)
class Node:
    """One call: tensors in `args` and `kwargs` are TensorRefs.

    `results` say where return values go; empty where the call writes into its arguments.
    """

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[TensorRef | None, ...] = ()


@dataclass
class Encoded:
    """A node's skeleton and words; an address word holds the offset inside its buffer."""

    function: str
    skeleton: bytes = b""
    words: list[int] = field(default_factory=list)
    addresses: list[tuple[int, Buffer]] = field(default_factory=list)
    """(word, buffer): words that the buffer's address must be added to."""

    def signature(self) -> tuple[object, ...]:
        """Equal for calls that differ in nothing but where their tensors lie."""
        moved = {word for word, _ in self.addresses}
        fixed = (value for word, value in enumerate(self.words) if word not in moved)
        return (self.function, self.skeleton, tuple(fixed))

    def put(self, value: Any) -> object:
        """Append the words of `value`; its skeleton."""
        match value:
            case None:
                return None
            case TensorRef():
                return self._put_tensor(value)
            case bool():
                self.words.append(int(value))
                return "b"
            case int():
                self._pack("<q", value)
                return "i"
            case float():
                self._pack("<d", value)
                return "f"
            case complex():
                self._pack("<d", value.real)
                self._pack("<d", value.imag)
                return "c"
            case str():
                return ["s", value]
            case list() | tuple():
                return ["l", *(self.put(item) for item in value)]
        return self._put_torch(value)

    def _put_torch(self, value: Any) -> object:
        if isinstance(value, torch.dtype) and (name := dtype_name(value)):
            return ["d", name]
        if isinstance(value, torch.memory_format) and value in _FORMAT_NAMES:
            return ["m", _FORMAT_NAMES[value]]
        if value is torch.strided:
            return "y"
        if isinstance(value, torch.device) and value.type == "cpu":
            return "v"
        raise NotEncodable(f"{type(value).__name__} {value}")

    def _pack(self, form: str, value: int | float) -> None:
        try:
            packed = struct.pack(form, value)
        except struct.error as error:
            raise NotEncodable(f"number {value}") from error
        self.words.append(int.from_bytes(packed, "little"))

    def _put_tensor(self, ref: TensorRef) -> object:
        self.addresses.append((len(self.words), ref.buffer))
        self.words += [ref.offset, *ref.sizes, *ref.strides]
        flags = CONJUGATE * ref.conj + NEGATIVE * ref.neg
        return ["t", ref.dtype, len(ref.sizes), flags]


def encode(node: Node) -> Encoded:
    """`node` with offsets for addresses; NotEncodable names an argument that has no form."""
    encoded = Encoded(node.function)
    args = [encoded.put(value) for value in node.args]
    pairs = [[name, encoded.put(node.kwargs[name])] for name in sorted(node.kwargs)]
    results = [encoded.put(ref) for ref in node.results]
    encoded.skeleton = msgspec.msgpack.encode([args, pairs, results])
    return encoded


def references(value: Any) -> Sequence[TensorRef]:
    """Every TensorRef in an argument structure."""
    if isinstance(value, TensorRef):
        return [value]
    if isinstance(value, dict):
        return references(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [ref for item in value for ref in references(item)]
    return []
