"""The decoders that are measured: geometry, random weights in one safetensors file, passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from parse_runtime.models.config import ModelConfig

CONTEXT = 128
STEPS = 2


def config(name: str) -> ModelConfig:
    """Qwen3-0.6B or Qwen3-14B."""
    shared: dict[str, Any] = {
        "architecture": "qwen3", "kv_heads": 8, "head_dim": 128, "vocab": 151936, "qk_norm": True,
        "max_positions": 40960, "rms_eps": 1e-6, "rope_theta": 1e6,
    }  # fmt: skip
    if name == "qwen3-0.6b":
        return ModelConfig(
            layers=28, hidden=1024, intermediate=3072, heads=16, tied_embeddings=True, **shared
        )
    return ModelConfig(layers=40, hidden=5120, intermediate=17408, heads=40, **shared)


def batches(name: str) -> list[int]:
    """Batch sizes: 35 up to 256, or 51 up to 512."""
    small = [1, 2, 4, *range(8, 257, 8)]
    return small if name == "qwen3-0.6b" else [*small, *range(272, 513, 16)]


def shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stored tensors, as Hugging Face has them."""
    found = {"model.embed_tokens": (c.vocab, c.hidden)}
    for layer in range(c.layers):
        sizes = {
            "self_attn.q_proj": (c.heads * c.head_dim, c.hidden),
            "self_attn.k_proj": (c.kv_heads * c.head_dim, c.hidden),
            "self_attn.v_proj": (c.kv_heads * c.head_dim, c.hidden),
            "self_attn.o_proj": (c.hidden, c.heads * c.head_dim),
            "mlp.gate_proj": (c.intermediate, c.hidden),
            "mlp.up_proj": (c.intermediate, c.hidden),
            "mlp.down_proj": (c.hidden, c.intermediate),
            "input_layernorm": (c.hidden,), "post_attention_layernorm": (c.hidden,),
            "self_attn.q_norm": (c.head_dim,), "self_attn.k_norm": (c.head_dim,),
        }  # fmt: skip
        found |= {f"model.layers.{layer}.{name}": size for name, size in sizes.items()}
    found["model.norm"] = (c.hidden,)
    if not c.tied_embeddings:
        found["lm_head"] = (c.vocab, c.hidden)
    return {f"{name}.weight": size for name, size in found.items()}


def write_weights(c: ModelConfig, path: Path) -> None:
    """Random bfloat16 weights, drawn on the GPU."""
    import torch

    header, end = {}, 0
    for name, shape in shapes(c).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator("cuda").manual_seed(0)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes(c).items():
            values = torch.randn(shape, device="cuda", generator=generator) * 0.02
            values = values + 1 if "norm" in name else values
            file.write(values.to(torch.bfloat16).view(torch.int16).cpu().numpy().data)


def decode_passes(name: str, parameters: Any, register: Any, compiled: Any) -> Any:
    """(batch size, function of no arguments that gives the outputs) for every batch size."""
    from parse_runtime.passes import Passes, Shapes

    largest = max(batches(name))
    passes = Passes(
        "target", config(name), parameters,
        Shapes(max_len=CONTEXT, slots=largest, decode=tuple(batches(name))), register,
        compiled=compiled,
    )  # fmt: skip
    return [(batch, lambda b=batch: passes.decode(b)) for batch in batches(name)]


def plan(batch: int, step: int) -> np.ndarray:
    """The rows of one decode step, int64 [5, batch]: a random token of each sequence."""
    tokens = np.random.default_rng([batch, step]).integers(0, 151936, batch)
    here = np.full(batch, step)
    return np.stack([tokens, here, here, here + 1, here]).astype(np.int64)
