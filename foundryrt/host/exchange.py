"""The exchange between ranks on the CPU as an operator of torch (docs/tensor-parallel.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from foundryrt.bundle.ranks import MESSAGE, MOST, WORDS
from foundryrt.host.custom import NAMESPACE, Operator, is_plain
from foundryrt.native import exchange_core
from foundryrt.native.exchange_core import Exchange

_SCHEMA = (
    "all_gather(Tensor x, Tensor(a!) words, Tensor(b!) slabs, int turn, int world, int capacity, *,"
    " Tensor(c!) out) -> ()"
)
_BITS = {torch.float32: 32, torch.bfloat16: 16}


def _look(a: Mapping[str, Any]) -> Exchange | None:
    x, words, slabs, out = (a[name] for name in ("x", "words", "slabs", "out"))
    turn, world, capacity = (a[name] for name in ("turn", "world", "capacity"))
    if {type(number) for number in (turn, world, capacity)} != {int}:
        return None
    if x.dtype not in _BITS or not (2 <= world <= MOST and turn in (0, 1)):
        return None
    stride = slabs.numel() // world
    fits = (
        is_plain(x, x.dtype, *x.shape)
        and is_plain(out, x.dtype, world, *x.shape)
        and is_plain(words, torch.int32, WORDS)
        and is_plain(slabs, torch.uint8, world * stride)
        and slabs.data_ptr() % 4 == 0
        and stride % (2 * MESSAGE) == 0
        and capacity % MESSAGE == 0
        and 0 < capacity <= stride // (2 * world)
    )
    return Exchange(world, stride, capacity, _BITS[x.dtype]) if fits else None


def _run(a: Mapping[str, Any], exchange: Exchange) -> None:
    x = a["x"]
    exchange_core.all_gather(
        exchange, x.data_ptr(), x.numel(), a["words"].data_ptr(), a["slabs"].data_ptr(), a["turn"],
        a["out"].data_ptr(),
    )  # fmt: skip


_ALL_GATHER = Operator(_SCHEMA, _look, _run)
CHECKS = {f"{NAMESPACE}::{_ALL_GATHER.name}": _ALL_GATHER.fits}
"""By operator: whether a call's arguments, given by name, fit each other."""
_ALL_GATHER.define()
