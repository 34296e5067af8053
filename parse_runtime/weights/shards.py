"""Recipes of a decoder's parameters by rank, cut out of those of the whole model."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from foundryc.weights import WeightSlice, cut
from parse_runtime.models.shard import Shard
from parse_runtime.weights.parameters import Parameter
from parse_runtime.weights.quantized import SCALE

_BY_COLUMN = ("o", "down", "qkv_bias")


def shard_parameters(parameters: list[Parameter], shard: Shard) -> list[Parameter]:
    """The parameters of a rank, each with the slices of all ranks.

    Projections into heads and MLPs are cut by rows, those out of them by columns: their products
    are shares of a sum. Of experts and of the vocabulary's tables a rank has whole ones. Norms and
    routers are every rank's. Scales are cut as the weights are, which begin with whole blocks.
    """
    return [_sharded(p, shard) for p in parameters]


def _sharded(p: Parameter, shard: Shard) -> Parameter:
    kind = p.name.rpartition(".")[2].removesuffix(SCALE)
    rows, columns = range(prod(p.shape[:-1])), range(p.shape[-1])
    slices: list[WeightSlice] = []
    size = 0
    for rank in range(shard.world):
        runs = _runs(p, kind, shard, rank)
        if not runs:
            return p
        size = 0
        for run in runs:
            if kind in _BY_COLUMN:
                found = cut(p.slices, rows, run, column=size)
            else:
                found = cut(p.slices, run, columns, row=size)
            slices += [replace(part, rank=rank) for part in found]
            size += len(run)
    if kind in _BY_COLUMN:
        shape = (*p.shape[:-1], size)
    else:
        shape = (size // prod(p.shape[1:-1]), *p.shape[1:])
    return replace(p, shape=shape, slices=slices)


def _runs(p: Parameter, kind: str, shard: Shard, rank: int) -> list[range]:
    """The rows, or columns, of a parameter that a rank has, in their order; none where it has all.

    Of a parameter with more than two dimensions, rows are those of its 2-D view.
    """
    if kind in ("experts_gate_up", "experts_down"):
        return [_part(rank, shard.experts * p.shape[1])]
    runs = _of_weight(kind, shard, rank)
    if not p.name.endswith(SCALE):
        return runs
    block = shard.whole.scale_block
    return [range(run.start // block, -(-run.stop // block)) for run in runs]


def _of_weight(kind: str, shard: Shard, rank: int) -> list[range]:
    """`_runs` of anything but experts and scales."""
    whole, own = shard.whole, shard.config
    match kind:
        case "qkv" | "qkv_bias":
            keys = _run(whole.heads + shard.first_kv_head(rank), own.kv_heads)
            heads = (_part(rank, own.heads), keys, _behind(keys, whole.kv_heads))
            return [range(h.start * own.head_dim, h.stop * own.head_dim) for h in heads]
        case "o":
            return [_part(rank, own.heads * own.head_dim)]
        case "gate_up":
            gates = _part(rank, own.intermediate)
            return [gates, _behind(gates, whole.intermediate)]
        case "down":
            return [_part(rank, own.intermediate)]
        case "embed" | "head":
            tokens = _part(rank, shard.vocab)
            there = range(min(tokens.start, whole.vocab), min(tokens.stop, whole.vocab))
            # What is beyond the vocabulary is never looked at, and holds some rows of it.
            return [there, range(len(tokens) - len(there))]
    return []


def _part(rank: int, size: int) -> range:
    return _run(rank * size, size)


def _run(first: int, size: int) -> range:
    return range(first, first + size)


def _behind(run: range, size: int) -> range:
    return range(run.start + size, run.stop + size)
