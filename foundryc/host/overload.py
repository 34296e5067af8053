"""Which overload a replay calls: one that writes into planned memory, if its bits are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload

from foundryc.host.buffers import Buffer, TensorRef, dtype_name, same_bits
from foundryc.host.space import Space
from foundryrt.host.admitted import admitted
from foundryrt.host.operators import operator_name

_OPTIONS = {"dtype", "layout", "device", "pin_memory"}
_COPIES = {"aten::clone", "aten::_to_copy"}

Rewritten = tuple[OpOverload[..., Any], tuple[Any, ...], dict[str, Any]]


@cache
def _out_overload(op: OpOverload[..., Any]) -> OpOverload[..., Any] | None:
    wanted = [(a.name, str(a.type)) for a in op._schema.arguments]
    plain = [pair for pair in wanted if pair[0] not in _OPTIONS]
    packet = op.overloadpacket
    for name in packet.overloads():
        found: OpOverload[..., Any] = getattr(packet, name)
        # A generated overload calls the plain one and copies, which a replay can do as well.
        if torch.Tag.out not in found.tags or torch.Tag.generated in found.tags:
            continue
        taken = [(a.name, str(a.type)) for a in found._schema.arguments if not a.is_out]
        outs = [str(a.type) for a in found._schema.arguments if a.is_out]
        fits = len(outs) == len(op._schema.returns) and set(outs) == {"Tensor"}
        if fits and taken in (wanted, plain):
            return found
    return None


def rewrite(
    op: OpOverload[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], outs: Sequence[Any]
) -> Rewritten | None:
    """The call that puts the results into `outs`; None where `op` has no such overload."""
    if operator_name(op) in _COPIES:
        return torch.ops.aten.copy_.default, (outs[0], args[0]), {}
    found = _out_overload(op)
    if found is None:
        return None
    names = [a.name for a in found._schema.arguments]
    written = [a.name for a in found._schema.arguments if a.is_out]
    if len(written) != len(outs):
        return None
    kept = {name: value for name, value in kwargs.items() if name in names}
    # A positional argument that the other overload lacks would shift those behind it.
    positional = [a.name for a in op._schema.arguments if not a.kwarg_only][: len(args)]
    if any(name not in names for name in positional):
        return None
    return found, tuple(args), kept | dict(zip(written, outs, strict=True))


def works(
    op: OpOverload[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    live: Mapping[Buffer, torch.Tensor],
    returned: Sequence[torch.Tensor],
    space: Space,
) -> bool:
    """Whether the rewritten call fills planned memory of the same strides with the same bits.

    `args` and `kwargs` hold TensorRefs, `live` a tensor of each buffer. The call is tried in one
    storage, as a replay makes it.
    """
    planned = rewrite(op, args, kwargs, returned)
    if planned is None or operator_name(planned[0]) not in admitted():
        return False
    with space.temporary():
        copies: dict[Buffer, int] = {}

        def mirrored(value: Any) -> Any:
            if isinstance(value, TensorRef):
                return space.mirror(value, live[value.buffer], copies)
            return [mirrored(item) for item in value] if isinstance(value, list) else value

        outs = [_untouched(tensor, space) for tensor in returned]
        rewritten = rewrite(
            op, mirrored(list(args)), {k: mirrored(v) for k, v in kwargs.items()}, outs
        )
        return rewritten is not None and _fills(rewritten, outs, returned)


def _untouched(like: torch.Tensor, space: Space) -> torch.Tensor:
    nbytes = like.untyped_storage().nbytes()
    address = space.take(nbytes)
    # What a kernel leaves out must not look right by chance.
    space.bytes(address, nbytes).fill_(0xA5)
    return space.view(address, tuple(like.shape), like.stride(), str(dtype_name(like.dtype)))


def _fills(call: Rewritten, outs: Sequence[torch.Tensor], returned: Sequence[torch.Tensor]) -> bool:
    before = [(t.data_ptr(), t.stride()) for t in outs]
    function, args, kwargs = call
    try:
        function(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return False
    if before != [(t.data_ptr(), t.stride()) for t in outs]:
        return False
    return all(same_bits(a, b) for a, b in zip(outs, returned, strict=True))
