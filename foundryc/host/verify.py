"""The proof of a recording: replayed over other memory, it must give the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from foundryc.host.buffers import Buffer, Kind, TensorRef, raw_bytes, same_bits
from foundryc.host.encode import Encoded
from foundryrt.bundle.schema import DTYPES
from foundryrt.errors import FoundryError
from foundryrt.host.replay import Tape, bind

_SHIFT = 44
"""Addresses of the proof: buffer number above this bit, offset below."""


@dataclass(frozen=True)
class Proof:
    """What a replay is compared with.

    `kept` has the live tensors behind registered buffers and outputs, `before` their bytes before
    the graph wrote them, `offsets` and `scratch` (bytes) are the memory plan.
    """

    label: str
    calls: Sequence[Encoded]
    kept: Mapping[Buffer, torch.Tensor]
    before: Mapping[Buffer, torch.Tensor]
    offsets: Mapping[Buffer, int]
    scratch: int
    outputs: Sequence[tuple[str, TensorRef, torch.Tensor]]


def prove(proof: Proof) -> None:
    """Replay and compare every output and every written buffer; FoundryError names the first."""
    space = _Space(proof)
    calls = []
    for call in proof.calls:
        words = list(call.words)
        for word, buffer in call.addresses:
            words[word] += space.address(buffer)
        calls.append(bind(call.function, call.skeleton, words, space.view))
    Tape(proof.label, calls, torch.get_num_threads()).launch()
    for name, ref, live in proof.outputs:
        copy = space.view(space.address(ref.buffer) + ref.offset, ref.sizes, ref.strides, ref.dtype)
        _compare(proof.label, f"output {name!r}", copy, live)
    for buffer in proof.before:
        _compare(proof.label, buffer.label, space.bytes(buffer), raw_bytes(proof.kept[buffer]))


def _compare(label: str, what: str, copy: torch.Tensor, live: torch.Tensor) -> None:
    if not same_bits(copy, live):
        raise FoundryError(
            f"{label}: a replay gives other bits in {what} than the recorded run; an operator"
            " depends on something outside its arguments, or memory is read before it is written"
        )


class _Space:
    """Buffers of the recording mapped to memory: copies of what is written, else the original."""

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._scratch = torch.zeros(proof.scratch, dtype=torch.uint8)
        self._numbers: dict[Buffer, int] = {}
        self._bytes: list[torch.Tensor] = []

    def address(self, buffer: Buffer) -> int:
        if buffer not in self._numbers:
            self._numbers[buffer] = len(self._bytes)
            self._bytes.append(self._memory(buffer))
        return self._numbers[buffer] << _SHIFT

    def bytes(self, buffer: Buffer) -> torch.Tensor:
        return self._bytes[self.address(buffer) >> _SHIFT]

    def _memory(self, buffer: Buffer) -> torch.Tensor:
        proof = self._proof
        if buffer in proof.offsets:
            start = proof.offsets[buffer]
            return self._scratch[start : start + buffer.nbytes]
        if buffer.kind is Kind.CONSTANT:
            copy = torch.empty(buffer.nbytes, dtype=torch.uint8)
            if buffer.nbytes:
                copy.copy_(torch.frombuffer(bytearray(buffer.data), dtype=torch.uint8))
            return copy
        if buffer.kind is Kind.OUTPUT and buffer.graph == proof.label:
            return torch.zeros(buffer.nbytes, dtype=torch.uint8)
        return proof.before[buffer] if buffer in proof.before else raw_bytes(proof.kept[buffer])

    def view(
        self, address: int, sizes: tuple[int, ...], strides: tuple[int, ...], dtype: str
    ) -> torch.Tensor:
        whole, offset = self._bytes[address >> _SHIFT], address & ((1 << _SHIFT) - 1)
        itemsize = DTYPES[dtype]
        typed = whole[: whole.numel() // itemsize * itemsize].view(getattr(torch, dtype))
        start = typed.storage_offset() + offset // itemsize
        return torch.as_strided(typed, sizes, strides, start)
