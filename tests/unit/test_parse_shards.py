"""A model cut into ranks: which of its parameters each has, and which numbers of ranks it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from foundryc.weights import materialize
from foundryc.weights.files import TensorFile
from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.shard import Shard
from parse_runtime.weights.parameters import (
    SAFETENSORS,
    Names,
    Parameter,
    gguf_names,
    parameters,
)
from parse_runtime.weights.shards import shard_parameters

CONFIG = ModelConfig(
    architecture="qwen3_moe", layers=2, hidden=6, intermediate=16, heads=8, kv_heads=4,
    head_dim=4, vocab=21, max_positions=32, rms_eps=1e-6, rope_theta=1e4, qkv_bias=True,
    qk_norm=True, experts=8, experts_per_token=2, expert_intermediate=3, dense_layers=(0,),
)  # fmt: skip


def shapes(c: ModelConfig, names: Names) -> dict[str, tuple[int, ...]]:
    """The stored tensors of a model, by name."""
    found: dict[str, tuple[int, ...]] = {
        f"{names.embed}.weight": (c.vocab, c.hidden), f"{names.norm}.weight": (c.hidden,),
        f"{names.head}.weight": (c.vocab, c.hidden),
    }  # fmt: skip
    for layer in range(c.layers):
        own: dict[str, tuple[int, ...]] = {
            names.input_norm: (c.hidden,), names.post_norm: (c.hidden,),
            names.q_norm: (c.head_dim,), names.k_norm: (c.head_dim,),
            names.o: (c.hidden, c.heads * c.head_dim),
        }  # fmt: skip
        for name, heads in ((names.q, c.heads), (names.k, c.kv_heads), (names.v, c.kv_heads)):
            own[name] = (heads * c.head_dim, c.hidden)
            found[f"{names.layer.format(layer)}{name}.bias"] = (heads * c.head_dim,)
        if c.is_mixture(layer):
            own[names.router] = (c.experts, c.hidden)
            sizes = ((c.expert_intermediate, c.hidden),) * 2, ((c.hidden, c.expert_intermediate),)
            for name, size in zip(names.expert, sum(sizes, ()), strict=True):
                if "{}" in name:
                    own |= {name.format(expert): size for expert in range(c.experts)}
                else:
                    own[name] = (c.experts, *size)
        else:
            own |= {names.gate: (c.intermediate, c.hidden), names.up: (c.intermediate, c.hidden)}
            own[names.down] = (c.hidden, c.intermediate)
        found |= {f"{names.layer.format(layer)}{name}.weight": s for name, s in own.items()}
    return found


FAMILIES = {"safetensors": SAFETENSORS, "gguf": gguf_names("llama")}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Recipes of a model of random values; of GGUF's names, with heads in another order."""
    names, rng = FAMILIES[request.param], np.random.default_rng(3)
    values = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes(CONFIG, names).items()
    }
    path = tmp_path_factory.mktemp(request.param) / "model.safetensors"
    save_file(values, path)
    return parameters(CONFIG, names, TensorFile(path).tensors)


def by_hand(p: Parameter, world: int, rank: int) -> np.ndarray:
    """A rank's part of the whole parameter."""
    c, kind = CONFIG, p.name.rpartition(".")[2]
    values = np.asarray(materialize(p.slices, p.shape, "float32"))

    def part(x: np.ndarray, axis: int) -> np.ndarray:
        return np.split(x, world, axis)[rank]

    if kind in ("qkv", "qkv_bias"):
        heads = values.reshape(c.heads + 2 * c.kv_heads, c.head_dim, *p.shape[1:])
        q, k, v = np.split(heads, [c.heads, c.heads + c.kv_heads])
        # A key-value head for each of the rank's query heads, and each once.
        own = [head * c.kv_heads // c.heads for head in part(np.arange(c.heads), 0)]
        own = sorted(set(own))
        return np.concatenate([part(q, 0), k[own], v[own]]).reshape(-1, *p.shape[1:])
    if kind in ("o", "down"):
        return part(values, 1)
    if kind == "gate_up":
        return np.concatenate([part(half, 0) for half in np.split(values, 2)])
    if kind in ("experts_gate_up", "experts_down"):
        return part(values, 0)
    if kind in ("embed", "head"):
        size = -(-c.vocab // world)
        return values[rank * size : (rank + 1) * size]
    return values


@pytest.mark.parametrize("world", [2, 4, 8])
def test_every_rank_has_its_part_of_every_parameter(model: list[Parameter], world: int) -> None:
    sharded = shard_parameters(model, Shard(CONFIG, world))
    kinds = {p.name.rpartition(".")[2] for p in sharded if any(s.rank >= 0 for s in p.slices)}
    assert kinds == {
        "embed", "head", "qkv", "qkv_bias", "o", "gate_up", "down", "experts_gate_up",
        "experts_down",
    }  # fmt: skip
    for whole, own in zip(model, sharded, strict=True):
        for rank in range(world):
            found = np.asarray(materialize(own.slices, own.shape, "float32", rank))
            expected = by_hand(whole, world, rank)
            # Rows behind the vocabulary's end hold whatever; the runtime never looks at them.
            tables = own.name in ("embed", "head")
            assert found.shape == expected.shape or tables
            np.testing.assert_array_equal(found[: len(expected)] if tables else found, expected)


@given(
    kv=st.integers(1, 12), group=st.integers(1, 6), width=st.integers(1, 48),
    experts=st.integers(0, 12), world=st.integers(1, 64),
)  # fmt: skip
@settings(max_examples=300)
def test_sizes_divide_or_are_refused_with_what_would(
    kv: int, group: int, width: int, experts: int, world: int
) -> None:
    config = replace(
        CONFIG, heads=kv * group, kv_heads=kv, intermediate=width, experts=experts,
        experts_per_token=min(1, experts), dense_layers=() if experts else (0, 1),
    )  # fmt: skip
    try:
        own = Shard(config, world)
    except UsageError as error:
        assert str(error).startswith(f"tp {world}: ")
        possible = [int(n) for n in str(error).rpartition(": ")[2].split(", ")]
        assert 1 in possible and world not in possible
        for n in possible:
            Shard(config, n)
        return
    c = own.config
    assert c.heads * world == config.heads
    assert own.experts * world == experts
    assert c.intermediate == (width if experts else width // world)
    assert (own.vocab - 1) * world < config.vocab <= own.vocab * world
    for rank in range(world):
        needed = {head // group for head in range(rank * c.heads, (rank + 1) * c.heads)}
        first = own.first_kv_head(rank)
        assert needed == set(range(first, first + c.kv_heads))
        assert c.group * c.kv_heads == c.heads


@pytest.mark.parametrize("world", [0, -1, 65])
def test_numbers_of_ranks_that_no_bundle_has(world: int) -> None:
    with pytest.raises(UsageError, match=r"from 1 to 64"):
        Shard(CONFIG, world)


def test_what_does_not_divide_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tp 3: 8 heads .* possible: 1, 2, 4, 8"):
        Shard(CONFIG, 3)
    with pytest.raises(UsageError, match="MLP of width 12"):
        Shard(replace(CONFIG, intermediate=12), 8)
    # A model of experts alone has no MLP to divide.
    Shard(replace(CONFIG, intermediate=12, dense_layers=()), 8)
    with pytest.raises(UsageError, match=r"6 experts .* possible: 1, 2$"):
        Shard(replace(CONFIG, experts=6), 4)
    with pytest.raises(UsageError, match="2 key-value heads"):
        Shard(replace(CONFIG, heads=12, kv_heads=2), 3)
