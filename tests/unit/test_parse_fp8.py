"""FP8 checkpoints: configurations, recipes of weights and scales, and what a rank has of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundryc.weights import StoredTensor, TensorFile, materialize
from foundryrt.errors import UsageError
from parse_runtime.models.hf_config import config_from_hf
from parse_runtime.models.shard import Shard
from parse_runtime.weights.parameters import SAFETENSORS, Parameter, parameters
from parse_runtime.weights.quantized import FP8, with_scales
from parse_runtime.weights.shards import shard_parameters

FORM = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
    "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"],
}  # fmt: skip
QWEN3_235B = {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "bos_token_id": 151643,
    "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960,
    "max_window_layers": 94, "mlp_only_layers": [], "model_type": "qwen3_moe",
    "moe_intermediate_size": 1536, "norm_topk_prob": True, "num_attention_heads": 64,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 94,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1e6,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_sliding_window": False, "vocab_size": 151936, "quantization_config": FORM,
}  # fmt: skip
"""Qwen3-235B-A22B-FP8's geometry and form."""
CONFIG = replace(
    config_from_hf(QWEN3_235B), layers=2, hidden=200, heads=8, kv_heads=4, vocab=30, experts=8,
    experts_per_token=2, expert_intermediate=256, intermediate=1024, dense_layers=(1,),
)  # fmt: skip
"""Hidden states end inside a block."""


def shapes(c: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of a checkpoint."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add(name: str, *shape: int, fp8: bool = False) -> None:
        found[f"{name}.weight"] = ("F8_E4M3" if fp8 else "F32"), shape
        if fp8:
            blocks = tuple(-(-size // 128) for size in shape)
            found[f"{name}.weight_scale_inv"] = "F32", blocks

    add("model.embed_tokens", c.vocab, c.hidden)
    add("model.norm", c.hidden)
    add("lm_head", c.vocab, c.hidden)
    for layer in range(c.layers):
        here = f"model.layers.{layer}."
        for name, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            add(f"{here}self_attn.{name}_proj", heads * c.head_dim, c.hidden, fp8=True)
        add(f"{here}self_attn.o_proj", c.hidden, c.heads * c.head_dim, fp8=True)
        for name in ("input_layernorm", "post_attention_layernorm"):
            add(f"{here}{name}", c.hidden)
        for name in ("q_norm", "k_norm"):
            add(f"{here}self_attn.{name}", c.head_dim)
        mlps, width = [f"{here}mlp."], c.intermediate
        if c.is_mixture(layer):
            add(f"{here}mlp.gate", c.experts, c.hidden)
            mlps = [f"{here}mlp.experts.{expert}." for expert in range(c.experts)]
            width = c.expert_intermediate
        for mlp in mlps:
            add(f"{mlp}gate_proj", width, c.hidden, fp8=True)
            add(f"{mlp}up_proj", width, c.hidden, fp8=True)
            add(f"{mlp}down_proj", c.hidden, width, fp8=True)
    return found


def write(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file of random bits in FP8, and random numbers elsewhere."""
    rng = np.random.default_rng(5)
    header, data = {}, bytearray()
    for name, (dtype, shape) in tensors.items():
        values: Any = rng.standard_normal(shape).astype(np.float32)
        if dtype == "F8_E4M3":
            values = rng.integers(0, 127, shape, dtype=np.uint8)
        start = len(data)
        data += values.tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def without_file(c: Any) -> dict[str, StoredTensor]:
    """Tensors that can be cut and not read."""
    kinds = {"F8_E4M3": FP8, "F32": "float32"}
    return {
        name: StoredTensor(Path("model.safetensors"), name, kinds[kind], shape, 0, 0)
        for name, (kind, shape) in shapes(c).items()
    }


def recipes(stored: Mapping[str, StoredTensor], c: Any = CONFIG) -> list[Parameter]:
    return with_scales(parameters(c, SAFETENSORS, stored), stored, c.scale_block)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredTensor]:
    path = tmp_path_factory.mktemp("fp8") / "model.safetensors"
    write(path, shapes(CONFIG))
    return dict(TensorFile(path).tensors)


@pytest.mark.parametrize("form", [{}, {"fmt": None, "activation_scheme": None}])
def test_blocks_of_128_are_read(form: dict[str, object]) -> None:
    assert (
        config_from_hf({**QWEN3_235B, "quantization_config": {**FORM, **form}}).scale_block == 128
    )
    assert config_from_hf({**QWEN3_235B, "quantization_config": None}).scale_block == 0


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ({**FORM, "quant_method": "awq"}, "quant_method 'awq', not 'fp8'"),
        ({"bits": 4}, "quant_method 'None'"),
        ({**FORM, "fmt": "e5m2"}, "fmt 'e5m2'"),
        ({**FORM, "activation_scheme": "static"}, "activation_scheme 'static'"),
        ({**FORM, "weight_block_size": None}, "weight_block_size 'None'"),
        ({**FORM, "weight_block_size": [1, 128]}, r"weight_block_size '\[1, 128\]'"),
        ("fp8", "quantization_config is not"),
    ],
)
def test_other_forms_are_refused_by_name(form: object, named: str) -> None:
    with pytest.raises(UsageError, match=rf"config\.json: .*{named}"):
        config_from_hf({**QWEN3_235B, "quantization_config": form})


def test_qwen3_235b_has_ranks() -> None:
    config = config_from_hf(QWEN3_235B)
    own = Shard(config, 8)
    assert (own.config.heads, own.config.kv_heads, own.experts) == (8, 1, 16)
    assert own.config.qkv_rows == 10 * 128 and own.vocab == 18992
    with pytest.raises(UsageError, match=r"possible: 1, 2, 4, 8, 16, 32, 64$"):
        Shard(config, 3)


def test_a_rank_of_qwen3_235b_has_an_eighth_of_the_projections() -> None:
    config = replace(config_from_hf(QWEN3_235B), layers=1)
    found = shard_parameters(recipes(without_file(config), config), Shard(config, 8))
    own = {p.name.removeprefix("layers.0."): p for p in found}
    assert own["qkv"].shape == (1280, 4096) and own["qkv_scale"].shape == (10, 32)
    assert own["o"].shape == (4096, 1024) and own["o_scale"].shape == (32, 8)
    assert own["experts_gate_up"].shape == (16, 3072, 4096)
    assert own["experts_gate_up_scale"].shape == (16, 24, 32)
    assert own["experts_down"].shape == (16, 4096, 1536)
    assert own["experts_down_scale"].shape == (16, 32, 12)
    quantized = sum(prod(p.shape) for p in own.values() if p.dtype == FP8)
    # Key-value heads are on two ranks each.
    assert quantized == (1280 + 1024) * 4096 + 16 * 3 * 1536 * 4096


def test_parts_that_are_no_whole_blocks_are_refused_with_what_would_do() -> None:
    narrow = replace(CONFIG, head_dim=64)
    with pytest.raises(UsageError, match=r"tp 4: .* 64 rows of key-value heads .*: 1, 2$"):
        Shard(narrow, 4)
    mlp = replace(CONFIG, heads=32, kv_heads=8, intermediate=9728)  # as Qwen3-4B
    with pytest.raises(
        UsageError, match=r"tp 8: .* 1216 rows of an MLP .* blocks of 128; possible: 1, 2, 4$"
    ):
        Shard(mlp, 8)
    Shard(replace(mlp, scale_block=0), 8)


def dequantized(p: Parameter, scale: Parameter, rank: int = 0) -> np.ndarray:
    """With bits in place of the values that they stand for, which is as good here."""
    values = materialize(p.slices, p.shape, p.dtype, rank).astype(np.float64)
    factors = materialize(scale.slices, scale.shape, scale.dtype, rank)
    wide = np.repeat(np.repeat(factors, 128, -2), 128, -1)
    return values * wide[..., : p.shape[-2], : p.shape[-1]]


def pairs(found: list[Parameter]) -> dict[str, tuple[Parameter, Parameter]]:
    """FP8 parameters with their scales."""
    named = {p.name: p for p in found}
    return {p.name: (p, named[f"{p.name}_scale"]) for p in found if p.dtype == FP8}


def test_every_projection_has_its_scales(stored: dict[str, StoredTensor]) -> None:
    found = pairs(recipes(stored))
    kinds = {name.rpartition(".")[2] for name in found}
    assert kinds == {"qkv", "o", "gate_up", "down", "experts_gate_up", "experts_down"}

    def exact(name: str) -> np.ndarray:
        weight, scale = stored[f"{name}.weight"], stored[f"{name}.weight_scale_inv"]
        bits = np.frombuffer(weight.data(), np.uint8).reshape(weight.shape)
        factors = np.frombuffer(scale.data(), np.float32).reshape(scale.shape)
        wide = np.repeat(np.repeat(factors, 128, 0), 128, 1)
        return bits * wide[: weight.shape[0], : weight.shape[1]].astype(np.float64)

    layer = "model.layers.0."
    qkv = [exact(f"{layer}self_attn.{name}_proj") for name in "qkv"]
    np.testing.assert_array_equal(dequantized(*found["layers.0.qkv"]), np.concatenate(qkv))
    expert = f"{layer}mlp.experts.5."
    fused = np.concatenate([exact(f"{expert}gate_proj"), exact(f"{expert}up_proj")])
    np.testing.assert_array_equal(dequantized(*found["layers.0.experts_gate_up"])[5], fused)
    down = dequantized(*found["layers.0.experts_down"])[5]
    np.testing.assert_array_equal(down, exact(f"{expert}down_proj"))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_scales_are_cut_as_weights_are(stored: dict[str, StoredTensor], world: int) -> None:
    """A rank's dequantized weight is its part of the dequantized weight."""
    whole = recipes(stored)
    alone, own = pairs(whole), pairs(shard_parameters(whole, Shard(CONFIG, world)))
    assert alone.keys() == own.keys()
    c, kv = CONFIG, max(CONFIG.kv_heads // world, 1)
    for name, (p, scale) in own.items():
        exact = dequantized(*alone[name])
        for rank in range(world):

            def part(x: np.ndarray, axis: int, rank: int = rank) -> np.ndarray:
                return np.split(x, world, axis)[rank]

            kind = name.rpartition(".")[2]
            if kind == "qkv":
                q, k, v = np.split(exact, np.cumsum([c.heads, c.kv_heads]) * c.head_dim)
                first = rank * c.kv_heads // world * c.head_dim
                keys = slice(first, first + kv * c.head_dim)
                expected = np.concatenate([part(q, 0), k[keys], v[keys]])
            elif kind == "gate_up":
                expected = np.concatenate([part(half, 0) for half in np.split(exact, 2)])
            else:
                expected = part(exact, 1 if kind in ("o", "down") else 0)
            np.testing.assert_array_equal(dequantized(p, scale, rank), expected)


PROJECTION = "model.layers.0.self_attn.k_proj.weight"
SCALE = f"{PROJECTION}_scale_inv"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({SCALE: None}, f"'{PROJECTION}' is in FP8 without '{SCALE}'"),
        ({SCALE: ("F32", (4, 1))}, r"is float32 \[4, 1\]; .* is float32 \[4, 2\]"),
        ({SCALE: ("I32", (4, 2))}, r"is int32 \[4, 2\]"),
        ({PROJECTION: ("F32", (512, 200))}, f"'{PROJECTION}' is in float32, but others of"),
        ({"lm_head.weight": ("F8_E4M3", (30, 200))}, "'lm_head.weight' in FP8 is not supported"),
        ({"lm_head.weight_scale_inv": ("F32", (1, 2))}, "scale of a tensor not in FP8"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    changed = {k: v for k, v in {**shapes(CONFIG), **change}.items() if v}
    write(tmp_path / "model.safetensors", changed)
    with pytest.raises(UsageError, match=named):
        recipes(TensorFile(tmp_path / "model.safetensors").tensors)


def test_fp8_needs_a_configuration_and_whole_blocks(stored: dict[str, StoredTensor]) -> None:
    with pytest.raises(UsageError, match="in FP8 needs a quantization_config"):
        recipes(stored, replace(CONFIG, scale_block=0))
    narrow = replace(CONFIG, heads=3, kv_heads=3, head_dim=64)
    with pytest.raises(UsageError, match=r"k_proj.* at row 192 of layers\.0\.qkv, inside a block"):
        recipes(without_file(narrow), narrow)
