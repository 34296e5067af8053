"""The tape: every ATen call of a graph, seen by a dispatch mode while it runs for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._C._dynamo.eval_frame import (
    _FrameAction,
    _FrameExecStrategy,
    set_code_exec_strategy,
)
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from foundryc.host import overload
from foundryc.host.buffers import (
    Buffer,
    Kind,
    Memory,
    TensorRef,
    copied_bytes,
    dtype_name,
    raw_bytes,
    reference,
)
from foundryc.host.decompose import DECOMPOSED
from foundryc.host.encode import Encoded, Node, NotEncodable, encode, references
from foundryc.host.leaves import Leaves
from foundryc.host.refuse import NotRecordable, check_operator, check_tensor, refusal
from foundryc.host.space import Space
from foundryrt.host.admitted import admitted
from foundryrt.host.operators import operator_name
from foundryrt.host.replay import flatten

_EMPTY = {
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted",
}  # fmt: skip
_LITERAL = {"lift_fresh", "lift"}


class Tape(TorchDispatchMode):
    """Records into `nodes`; `memory` knows the registered storages, which lie in `space`.

    `lasting` has a tensor of each buffer that lives longer than the graph. `adopt` takes in memory
    that is not known; without it such memory is refused.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        label: str,
        memory: Memory,
        space: Space,
        lasting: Mapping[Buffer, torch.Tensor],
        choices: dict[tuple[object, ...], bool],
        adopt: Callable[[torch.Tensor], Buffer] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.label = label
        self.nodes: list[Node] = []
        self.before: dict[Buffer, torch.Tensor] = {}
        """Bytes of each outer buffer that the graph writes, as they were before its first write."""
        self._prologue: list[Node] = []
        self._memory = memory
        self._space = space
        self._choices = choices
        self._adopt = adopt
        self._depth = 0
        self._refused: NotRecordable | None = None
        self._versions = {b: (t, t._version) for b, t in lasting.items() if not t.is_inference()}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the body; leaves torch as it was."""
        leaves = Leaves(lambda: self._depth > 0)
        try:
            with torch.no_grad(), leaves.refused(), self:
                yield
        except RuntimeError as error:
            # An interpreter of torch's own, such as TorchScript's, hides a refusal in its error.
            if self._refused is not None and "TorchScript" in str(error):
                raise self._refused from error
            raise
        for buffer in self._versions.keys() - self.before.keys():
            self._check_unchanged(buffer)
        self.nodes = self._prologue + self.nodes

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # For that torch would import its compiler with the first operator, which takes a second.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # What follows is not the workload's own doing.
        self._depth += 1
        try:
            if not isinstance(func, OpOverload):
                raise refusal(
                    func.name(), "runs functions that a tape does not see",
                    "write a loop out in Python, and a choice with torch.where",
                )  # fmt: skip
            return self._dispatch(func, args, kwargs or {})
        except NotRecordable as refused:
            self._refused = refused
            raise
        finally:
            self._depth -= 1

    # Neither this nor what it calls is compiled, as torch has it by importing its compiler.
    set_code_exec_strategy(
        __torch_dispatch__.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)
    )

    def _dispatch(
        self, op: OpOverload[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        # Under inference_mode composite operators arrive whole.
        if _is_composite(op):
            with self:
                return op._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        if (calls := DECOMPOSED.get(operator_name(op))) is not None:
            with self:
                return calls(*args, **kwargs)
        check_operator(op, args, kwargs)
        base = op._schema.name.split("::")[1]
        if base in _LITERAL and self._memory.find(args[0]) is None:
            check_tensor(operator_name(op), args[0])
            self._literal(args[0])
            return op(*args, **kwargs)
        return self._call(op, base, tuple(args), kwargs)

    def _call(
        self, op: OpOverload[..., Any], base: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = operator_name(op)
        ref_args = tuple(self._refer(name, value) for value in args)
        ref_kwargs = {key: self._refer(name, value) for key, value in kwargs.items()}
        moves_data = op._schema.is_mutable and torch.Tag.inplace_view not in op.tags
        written = _written(op, args, kwargs) if op._schema.is_mutable else []
        if not moves_data:
            # A tensor's own view of its memory counts as a change of version.
            for tensor in written:
                if (viewed := self._memory.find(tensor)) is not None:
                    self._versions.pop(viewed, None)
            written = []
        for tensor in written:
            self._before_write(name, tensor)
        sizes = [tensor.untyped_storage().nbytes() for tensor in written]
        value = op(*args, **kwargs)
        if sizes != [tensor.untyped_storage().nbytes() for tensor in written]:
            raise refusal(name, "resizes its out= tensor", "give the tensor its size at creation")
        returned = flatten(value)
        for tensor in returned:
            check_tensor(name, tensor)
        fresh = [self._memory.find(tensor) is None for tensor in returned]
        if not moves_data and not any(fresh):
            return value
        for tensor, new in zip(returned, fresh, strict=True):
            if new:
                self._note_result(name, tensor)
        if base in _EMPTY:
            return value
        results = tuple(
            self._refer(name, tensor) if new else None
            for tensor, new in zip(returned, fresh, strict=True)
        )
        node = Node(name, ref_args, ref_kwargs, results if any(fresh) else ())
        encoded = self._encode(node)
        given = flatten([args, list(kwargs.values())])
        if not moves_data and self._has_out(op, node, encoded, given, returned):
            function, new_args, new_kwargs = overload.rewrite(  # type: ignore[misc]
                op, ref_args, ref_kwargs, results
            )
            node = Node(operator_name(function), new_args, new_kwargs)
        if node.function not in admitted():
            raise refusal(
                node.function, "is none of the operators that a bundle may call",
                "put it together from others",
            )  # fmt: skip
        self.nodes.append(node)
        return value

    def _has_out(
        self,
        op: OpOverload[..., Any],
        node: Node,
        encoded: Encoded,
        given: Sequence[torch.Tensor],
        returned: Sequence[torch.Tensor],
    ) -> bool:
        signature = encoded.signature()
        if signature not in self._choices:
            used = references([node.args, node.kwargs])
            live = {ref.buffer: tensor for ref, tensor in zip(used, given, strict=True)}
            self._choices[signature] = _plain(node.results) and overload.works(
                op, node.args, node.kwargs, live, returned, self._space
            )
        return self._choices[signature]

    def _encode(self, node: Node) -> Encoded:
        try:
            return encode(node)
        except NotEncodable as error:
            raise refusal(node.function, f"takes {error}", "use plain arguments") from error

    def _note_result(self, name: str, tensor: torch.Tensor) -> None:
        if dtype_name(tensor.dtype) is None:
            raise refusal(name, f"gives {tensor.dtype}", "use a dtype that a bundle can hold")
        nbytes = tensor.untyped_storage().nbytes()
        self._memory.add(tensor, Buffer(nbytes, f"a result of {name}", Kind.SCRATCH, self.label))

    def _literal(self, tensor: torch.Tensor) -> None:
        data = raw_bytes(tensor).numpy().tobytes()
        self._memory.add(
            tensor, Buffer(len(data), "a literal", Kind.CONSTANT, self.label, data=data)
        )

    def _refer(self, name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._refer(name, item) for item in value]
        if not isinstance(value, torch.Tensor):
            return value
        check_tensor(name, value)
        buffer = self._memory.find(value)
        what = f"a {value.dtype} tensor of shape {tuple(value.shape)}"
        if buffer is None and self._adopt is not None:
            buffer = self._adopt(value)
        if buffer is None:
            raise refusal(
                name, f"uses unrecorded memory ({what})", "register the tensor with the recorder"
            )
        if buffer.kind is Kind.SCRATCH and buffer.graph != self.label:
            raise refusal(
                name,
                f"uses {what} that {buffer.graph} made and did not keep",
                "name it there with output()",
            )
        if dtype_name(value.dtype) is None:
            raise refusal(name, f"uses {what}", "use a dtype that a bundle can hold")
        return reference(value, buffer)

    def _before_write(self, name: str, tensor: torch.Tensor) -> None:
        buffer = self._memory.find(tensor)
        if buffer is None or buffer.kind in (Kind.SCRATCH, Kind.SLABS) or buffer in self.before:
            return
        if buffer.kind is Kind.CONSTANT and buffer.graph == self.label:
            self._unfold_literal(buffer)
            return
        if buffer.kind is Kind.CONSTANT or buffer.role in ("weight", "constant"):
            raise refusal(name, f"writes to {buffer.label}", "register it as state")
        if buffer.kind is Kind.OUTPUT and buffer.graph == self.label:
            return
        self._check_unchanged(buffer)
        self.before[buffer] = copied_bytes(tensor)

    def _check_unchanged(self, buffer: Buffer) -> None:
        """Refuse changes of a buffer that the tape has not seen, which are another thread's."""
        tensor, version = self._versions.get(buffer, (None, 0))
        if tensor is not None and tensor._version != version:
            raise refusal(
                buffer.label, "was changed in another thread than the graph's",
                "change it in the graph, or before it",
            )  # fmt: skip

    def _unfold_literal(self, buffer: Buffer) -> None:
        """Have every launch set the bytes of a literal that the graph writes to."""
        constant = Buffer(buffer.nbytes, buffer.label, Kind.CONSTANT, self.label, data=buffer.data)
        buffer.kind, buffer.data = Kind.SCRATCH, b""
        target, source = (
            TensorRef(b, 0, (buffer.nbytes,), (1,), "uint8") for b in (buffer, constant)
        )
        self._prologue.append(Node("aten::copy_", (target, source), {}))


def _plain(results: Sequence[TensorRef | None]) -> bool:
    """Whether each result is a whole buffer of its own."""
    buffers = {id(ref.buffer) for ref in results if ref is not None}
    return len(buffers) == len(results) and all(
        ref is not None and ref.offset == 0 and not (ref.conj or ref.neg) for ref in results
    )


def _is_composite(op: OpOverload[..., Any]) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    name = operator_name(op)
    return has(name, "CompositeImplicitAutograd") and not has(name, "CPU")


def _written(
    op: OpOverload[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """The tensors that the schema says the call writes."""
    found: list[torch.Tensor] = []
    for i, declared in enumerate(op._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            found += flatten(args[i] if i < len(args) else kwargs.get(declared.name))
    return found
