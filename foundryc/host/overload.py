"""Which overload a replay calls: one that writes into planned memory, if its bits are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload

from foundryc.host.buffers import same_bits
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
    returned: Sequence[torch.Tensor],
) -> bool:
    """Whether the rewritten call fills other memory of the same strides with the same bits."""
    outs = [torch.empty_strided(r.shape, r.stride(), dtype=r.dtype) for r in returned]
    for tensor in outs:
        whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        # What a kernel leaves out must not look right by chance.
        whole.fill_(0xA5)
    rewritten = rewrite(op, args, kwargs, outs)
    if rewritten is None:
        return False
    before = [(t.data_ptr(), t.stride()) for t in outs]
    function, new_args, new_kwargs = rewritten
    try:
        function(*new_args, **new_kwargs)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return False
    if before != [(t.data_ptr(), t.stride()) for t in outs]:
        return False
    return all(same_bits(a, b) for a, b in zip(outs, returned, strict=True))
