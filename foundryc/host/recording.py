"""Recording on the host: registered tensors and graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch.utils._python_dispatch import _disable_current_modes

from foundryc.capture import Capture
from foundryc.host.assemble import Recorded, Registered
from foundryc.host.buffers import (
    Buffer,
    Kind,
    Memory,
    copied_bytes,
    dtype_name,
    raw_bytes,
    reference,
)
from foundryc.host.encode import encode
from foundryc.host.graph import RecordedGraph, lifetimes_of, without_unused
from foundryc.host.plan import Plan, align, plan
from foundryc.host.space import Space
from foundryc.host.tape import Tape
from foundryc.host.verify import Proof, prove
from foundryc.weights import WeightSlice
from foundryrt.bundle.schema import ALIGNMENT, Ranks
from foundryrt.errors import UsageError


class HostRecording:
    """The `host` backend of a Recorder. Graphs run for real while they are recorded."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._space = Space()
        self._tensors: list[Registered] = []
        self._graphs: list[RecordedGraph] = []
        self._kept: dict[Buffer, torch.Tensor] = {}
        self._initial: dict[Buffer, torch.Tensor] = {}
        self._choices: dict[tuple[object, ...], bool] = {}
        self._adopted: list[Buffer] = []
        self._ranks: Ranks | None = None
        self._slabs: list[tuple[Buffer, torch.Tensor]] = []
        self._unseen: list[Buffer] = []
        """Kept memory whose first contents are those before the next graph."""
        self._program = False

    def register(
        self, name: str, tensor: torch.Tensor, role: str, slices: Sequence[WeightSlice] = ()
    ) -> torch.Tensor:
        """See Recorder.register; a tensor registered before gets a further name."""
        if any(known.name == name for known in self._tensors):
            raise UsageError(f"two tensors are registered as {name!r}")
        _check_dense(name, tensor)
        buffer = self._memory.find(tensor)
        if buffer is None or buffer.kind is not Kind.REGISTERED:
            tensor = self._dense(tensor.contiguous() if slices else tensor)
            nbytes = tensor.untyped_storage().nbytes()
            buffer = Buffer(nbytes, f"the {role} {name!r}", Kind.REGISTERED, role=role)
            self._memory.add(tensor, buffer)
            self._space.place(buffer, tensor)
            self._kept[buffer] = tensor
            if role not in ("weight", "constant"):
                self._remember(buffer)
        elif buffer.role != role or slices:
            raise UsageError(f"{name}: its memory is registered already, as {buffer.label}")
        self._tensors.append(Registered(name, role, reference(tensor, buffer), slices))
        return tensor

    def _dense(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in the recording's memory; strides stay unless elements overlap or leave gaps."""
        # Under the caller's inference mode a tensor would have no version to tell changes by.
        with torch.inference_mode(False), torch.no_grad():
            source = tensor.detach().resolve_conj().resolve_neg()
            strides = torch.empty_like(source, device="meta").stride()
            return self._space.tensor(source.shape, strides, source.dtype).copy_(source)

    @contextmanager
    def program(self) -> Iterator[None]:
        """See Recorder.program; memory of the program stays where it is."""
        self._program = True
        try:
            yield
        finally:
            self._program = False

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """See Recorder.keep."""
        if any(known.name == name for known in self._tensors):
            raise UsageError(f"two tensors are registered as {name!r}")
        if not self._program:
            raise UsageError(f"{name}: keep tensors in a program, before or after a graph")
        _check_dense(name, tensor)
        buffer = self._memory.find(tensor)
        if buffer is None:
            buffer = self._take_in(f"memory that is kept as {name!r}", tensor)
            self._unseen.append(buffer)
        if buffer.kind is Kind.SCRATCH:
            raise UsageError(f"{name}: {buffer.graph} made it; name it there with output()")
        if buffer.kind is Kind.REGISTERED:
            buffer.role = buffer.role or "state"
        role = buffer.role or "state"
        self._tensors.append(Registered(name, role, reference(tensor, buffer), ()))

    def _adopt(self, label: str, tensor: torch.Tensor) -> Buffer:
        """Memory of the program that the graph of this label uses, with what it holds now."""
        buffer = self._take_in(f"memory that {label} uses", tensor)
        self._remember(buffer)
        return buffer

    def _take_in(self, label: str, tensor: torch.Tensor) -> Buffer:
        buffer = Buffer(tensor.untyped_storage().nbytes(), label, Kind.REGISTERED)
        self._memory.add(tensor, buffer)
        self._adopted.append(buffer)
        self._kept[buffer] = tensor
        return buffer

    def _remember(self, buffer: Buffer) -> None:
        """Have `buffer` begin with what it holds now."""
        # A graph that names an input is on its tape already.
        with _disable_current_modes():
            kept = self._kept[buffer]
            if bool(raw_bytes(kept).any()):
                self._initial[buffer] = copied_bytes(kept)

    def _remember_kept(self) -> None:
        for buffer in self._unseen:
            self._remember(buffer)
        self._unseen.clear()

    @contextmanager
    def graph(self, name: str, /, **key: int | str) -> Iterator[RecordedGraph]:
        """Record the body; nothing is kept of a graph that is left by an exception."""
        label = f"{name}[{', '.join(f'{k}={v}' for k, v in key.items())}]" if key else name
        _check_numerics()
        self._remember_kept()
        adopt = partial(self._adopt, f"graph {label}") if self._program else None
        graph = RecordedGraph(name, key, f"graph {label}", self._memory, adopt)
        tape = Tape(graph.label, self._memory, self._space, self._kept, self._choices, adopt)
        try:
            with tape.recording():
                yield graph
            self._finish(graph, tape)
        except BaseException:
            for _, ref, _ in graph.outputs:
                if ref.buffer.graph == graph.label and ref.buffer.kind is Kind.OUTPUT:
                    ref.buffer.kind = Kind.SCRATCH
            raise
        finally:
            graph.open = False

    def _finish(self, graph: RecordedGraph, tape: Tape) -> None:
        lifetimes = lifetimes_of(tape.nodes)
        graph.calls = [encode(without_unused(n, i, lifetimes)) for i, n in enumerate(tape.nodes)]
        temporary = [b for b in lifetimes if b.kind is Kind.SCRATCH]
        planned: Plan = plan([lifetimes[b] for b in temporary])
        graph.offsets = dict(zip(temporary, planned.offsets, strict=True))
        graph.scratch = planned.size
        for _, ref, tensor in graph.outputs:
            self._kept.setdefault(ref.buffer, tensor)
        prove(
            Proof(
                graph.label, graph.calls, self._kept, tape.before, graph.offsets, graph.scratch,
                graph.outputs,
            ),
            self._space,
        )  # fmt: skip
        self._graphs.append(graph)

    def ranks(
        self, world: int, rank: int, words: torch.Tensor, size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Words and slabs of `world` ranks; pages of slabs that nobody writes cost no memory."""
        words = self.register("ranks", words, "state")
        self._ranks = Ranks(world=world, words=len(self._tensors) - 1)
        slabs = self._space.tensor((world * align(size, ALIGNMENT),), (1,), torch.uint8)
        buffer = Buffer(slabs.numel(), "the ranks' slabs", Kind.SLABS)
        self._memory.add(slabs, buffer)
        self._space.place(buffer, slabs)
        self._slabs.append((buffer, slabs))
        return words, slabs

    def given(self, name: str, tensor: torch.Tensor) -> None:
        """UsageError: a host bundle's memory is all its own."""
        raise UsageError(f"{name}: only --target cuda has memory that is given when it is opened")

    @property
    def pool(self) -> tuple[int, int]:
        """UsageError: a CPU has no pools for graphs."""
        raise UsageError("only --target cuda has a pool for graphs that other code captures")

    def adopt(
        self, raw_graph: int, outputs: Mapping[str, torch.Tensor], name: str, /, **key: int | str
    ) -> None:
        """UsageError: a CPU has no CUDA graphs."""
        raise UsageError(f"graph {name}: only --target cuda can adopt a CUDA graph")

    def capture(self, embed_weights: bool) -> Capture:
        """Everything recorded, laid out in the arena."""
        self._remember_kept()
        recorded = Recorded(
            self._tensors, self._graphs, self._kept, self._initial, self._adopted, self._ranks,
            [buffer for buffer, _ in self._slabs],
        )  # fmt: skip
        return recorded.capture(embed_weights)

    def warm_up(self) -> AbstractContextManager[None]:
        """Nothing on the host comes up late enough to be in a graph's way."""
        return nullcontext()


def _check_dense(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise UsageError(f"{name}: the host target takes dense CPU tensors")
    if dtype_name(tensor.dtype) is None:
        raise UsageError(f"{name}: a bundle cannot hold {tensor.dtype}")


def _check_numerics() -> None:
    if torch.get_default_dtype() != torch.float32:
        raise UsageError(
            f"torch's default dtype is {torch.get_default_dtype()}; a replay runs with float32:"
            " set it back and give dtypes explicitly"
        )
    if torch.get_float32_matmul_precision() != "highest":
        raise UsageError(
            "torch's float32 matmul precision is lowered; a replay runs with 'highest': set it back"
        )
