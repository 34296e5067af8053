"""The proof of a recording: replayed as a session replays it, it must give the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from foundryc.host.buffers import Buffer, Kind, TensorRef, copied_bytes, raw_bytes, same_bits
from foundryc.host.encode import Encoded
from foundryc.host.space import Space
from foundryrt.errors import FoundryError
from foundryrt.host.replay import Call, Tape, bind


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


def prove(proof: Proof, space: Space) -> None:
    """Replay and compare every output and every written buffer; FoundryError names the first.

    All tensors lie in one storage, those of the graph at the offsets that the bundle gives them.
    Registered tensors are replayed in place and hold afterwards what they held before.
    """
    with space.temporary():
        _Replay(proof, space).run()


class _Replay:
    def __init__(self, proof: Proof, space: Space) -> None:
        self._proof = proof
        self._space = space
        self._scratch = space.take(proof.scratch)
        self._places: dict[Buffer, int] = {}
        self._live = {
            buffer: copied_bytes(proof.kept[buffer])
            for buffer in proof.before
            if space.address(buffer) is not None
        }
        """Bytes of the registered buffers that the graph writes, as recording left them."""

    def run(self) -> None:
        proof = self._proof
        try:
            for buffer in self._live:
                self._bytes(buffer).copy_(proof.before[buffer])
            calls = [self._bind(i, call) for i, call in enumerate(proof.calls)]
            Tape(proof.label, calls, torch.get_num_threads()).launch()
            self._compare()
        finally:
            for buffer, contents in self._live.items():
                self._bytes(buffer).copy_(contents)

    def _bind(self, index: int, call: Encoded) -> Call:
        words = list(call.words)
        for word, buffer in call.addresses:
            words[word] += self._address(buffer)
        try:
            return bind(call.function, call.skeleton, words, self._space.view)
        except FoundryError as error:
            raise FoundryError(
                f"{self._proof.label}: node {index}, {call.function}, is no call that a bundle may"
                f" make: {error}"
            ) from error

    def _compare(self) -> None:
        proof, space = self._proof, self._space
        for name, ref, live in proof.outputs:
            # A registered tensor is its own replay; what the graph wrote of it comes below.
            if space.address(ref.buffer) is None:
                address = self._address(ref.buffer) + ref.offset
                copy = space.view(address, ref.sizes, ref.strides, ref.dtype)
                _equal(proof.label, f"output {name!r}", copy, live)
        for buffer in proof.before:
            live = self._live[buffer] if buffer in self._live else raw_bytes(proof.kept[buffer])
            _equal(proof.label, buffer.label, self._bytes(buffer), live)

    def _bytes(self, buffer: Buffer) -> torch.Tensor:
        return self._space.bytes(self._address(buffer), buffer.nbytes)

    def _address(self, buffer: Buffer) -> int:
        registered = self._space.address(buffer)
        if registered is not None:
            return registered
        if buffer not in self._places:
            self._places[buffer] = self._place(buffer)
        return self._places[buffer]

    def _place(self, buffer: Buffer) -> int:
        proof, space = self._proof, self._space
        if buffer in proof.offsets:
            return self._scratch + proof.offsets[buffer]
        if buffer.kind is Kind.OUTPUT and buffer.graph == proof.label:
            return space.take(buffer.nbytes)
        if buffer.kind is Kind.CONSTANT:
            return space.copy(buffer, torch.frombuffer(bytearray(buffer.data), dtype=torch.uint8))
        before = proof.before.get(buffer)
        return space.copy(buffer, raw_bytes(proof.kept[buffer]) if before is None else before)


def _equal(label: str, what: str, copy: torch.Tensor, live: torch.Tensor) -> None:
    if not same_bits(copy, live):
        raise FoundryError(
            f"{label}: a replay gives other bits in {what} than the recorded run; an operator"
            " depends on something outside its arguments, or memory is read before it is written"
        )
