"""Models of real geometry with random weights, in the names that the passes use.

Weights are normal; those that end in the residual stream are small, and the output table is the
embedding table moved by one row. So token t is followed by t + 1 whatever the layers compute, and
a draft model whose table is permuted agrees with the target on a chosen fraction of tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from foundryc.recorder import Recorder
from parse_runtime.kernels.quantized import BLOCK
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.shard import Shard

Model = tuple[ModelConfig, dict[str, Tensor]]

_QWEN3 = ModelConfig(
    architecture="qwen3", layers=40, hidden=5120, intermediate=17408, heads=40, kv_heads=8,
    head_dim=128, vocab=151936, max_positions=40960, rms_eps=1e-6, rope_theta=1e6, qk_norm=True,
    dtype="bfloat16",
)  # fmt: skip
_QWEN3_MOE = replace(
    _QWEN3, architecture="qwen3_moe", kv_heads=4, experts=128, experts_per_token=8,
    expert_intermediate=768, normalize_experts=True,
)  # fmt: skip
CONFIGS = {
    "qwen3-14b": _QWEN3,
    "qwen3-8b": replace(_QWEN3, layers=36, hidden=4096, intermediate=12288, heads=32),
    "qwen3-32b": replace(_QWEN3, layers=64, intermediate=25600, heads=64),
    # The published one ties its tables, which changes no traffic: one table is read a token.
    "qwen3-0.6b": replace(_QWEN3, layers=28, hidden=1024, intermediate=3072, heads=16),
    "qwen3-30b-a3b": replace(
        _QWEN3_MOE, layers=48, hidden=2048, intermediate=6144, heads=32, expert_intermediate=768
    ),
    "qwen3-235b-a22b": replace(
        _QWEN3_MOE, layers=94, hidden=4096, intermediate=12288, heads=64, expert_intermediate=1536
    ),
    "tiny": replace(
        _QWEN3, layers=4, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16, vocab=300
    ),
    "tiny-moe": replace(
        _QWEN3,
        architecture="qwen3_moe",
        layers=2,
        hidden=64,
        intermediate=96,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocab=300,
        experts=8,
        experts_per_token=2,
        expert_intermediate=48,
    ),
}
STD, SMALL = 0.02, 0.0002
PROJECTIONS = ("qkv", "o", "gate_up", "down", "experts_gate_up", "experts_down")
"""Weights that a checkpoint in FP8 has in FP8."""


def random_parameters(c: ModelConfig, device: str, agreement: float = 1.0) -> dict[str, Tensor]:
    """Bfloat16 parameters; `agreement` is the fraction of tokens t that t + 1 follows."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, std: float = STD) -> Tensor:
        empty = torch.empty(shape, dtype=torch.bfloat16, device=device)
        return empty.normal_(0, std, generator=generator)

    def ones(size: int) -> Tensor:
        return torch.ones(size, dtype=torch.bfloat16, device=device)

    p = {"embed": normal(c.vocab, c.hidden, std=1.0), "norm": ones(c.hidden)}
    p["head"] = torch.empty_like(p["embed"])
    p["head"][followers(c.vocab, agreement).to(device)] = p["embed"] * STD
    for layer in range(c.layers):
        w = {
            "input_norm": ones(c.hidden),
            "qkv": normal(c.qkv_rows, c.hidden),
            "q_norm": ones(c.head_dim),
            "k_norm": ones(c.head_dim),
            "o": normal(c.hidden, c.heads * c.head_dim, std=SMALL),
            "post_norm": ones(c.hidden),
        }
        if c.is_mixture(layer):
            w["router"] = normal(c.experts, c.hidden)
            w["experts_gate_up"] = normal(c.experts, 2 * c.expert_intermediate, c.hidden)
            w["experts_down"] = normal(c.experts, c.hidden, c.expert_intermediate, std=SMALL)
        else:
            w["gate_up"] = normal(2 * c.intermediate, c.hidden)
            w["down"] = normal(c.hidden, c.intermediate, std=SMALL)
        p |= {f"layers.{layer}.{name}": tensor for name, tensor in w.items()}
    return p


def rank_shapes(shard: Shard) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that a rank has, by name."""
    c, h = shard.config, shard.config.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (shard.vocab, h), "norm": (h,), "head": (shard.vocab, h),
    }  # fmt: skip
    for layer in range(c.layers):
        own: dict[str, tuple[int, ...]] = {
            "input_norm": (h,), "qkv": (c.qkv_rows, h), "q_norm": (c.head_dim,),
            "k_norm": (c.head_dim,), "o": (h, c.heads * c.head_dim), "post_norm": (h,),
        }  # fmt: skip
        if c.is_mixture(layer):
            own["router"] = (c.experts, h)
            own["experts_gate_up"] = (shard.experts, 2 * c.expert_intermediate, h)
            own["experts_down"] = (shard.experts, h, c.expert_intermediate)
        else:
            own["gate_up"], own["down"] = (2 * c.intermediate, h), (h, c.intermediate)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def zero_weights(
    shard: Shard, recorder: Recorder, model: str = "target", fp8: bool = False
) -> dict[str, Tensor]:
    """A rank's parameters as zeros that a bundle does not hold: state, which begins as zeros.

    With `fp8` projections are in FP8, with a scale for each block.
    """
    kinds: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for key, shape in rank_shapes(shard).items():
        kinds[key] = shape, torch.bfloat16
        if fp8 and key.rpartition(".")[2] in PROJECTIONS:
            *outer, n, k = shape
            kinds[key] = shape, torch.float8_e4m3fn
            kinds[f"{key}_scale"] = (*outer, -(-n // BLOCK), -(-k // BLOCK)), torch.float32
    device = "cuda" if recorder.target == "cuda" else "cpu"
    return {
        key: recorder.register(
            f"{model}.{key}", torch.zeros(shape, dtype=dtype, device=device), "state"
        )
        for key, (shape, dtype) in kinds.items()
    }


def followers(vocab: int, agreement: float) -> Tensor:
    """A permutation of the vocabulary: t + 1, but swapped in pairs for some."""
    after = (torch.arange(vocab) + 1) % vocab
    pairs = after[: vocab // 2 * 2].view(-1, 2)
    disagree = torch.rand(len(pairs), generator=torch.Generator().manual_seed(1)) >= agreement
    pairs[disagree] = pairs[disagree].flip(1)
    return after


def random_head(c: ModelConfig, device: str, vocab: int) -> tuple[ModelConfig, dict[str, Tensor]]:
    """An EAGLE-3 head for a target, with a draft vocabulary of the first `vocab` tokens."""
    config = replace(c, architecture="llama", layers=1, vocab=vocab, qk_norm=False)

    def normal(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, STD)

    h = c.hidden
    p = {name: torch.ones(h, dtype=torch.bfloat16, device=device)
         for name in ("input_norm", "hidden_norm", "post_norm", "norm")}  # fmt: skip
    p["fc"], p["qkv"] = normal(h, 3 * h), normal(c.qkv_rows, 2 * h)
    p["o"] = normal(h, c.heads * c.head_dim)
    p["gate_up"], p["down"] = normal(2 * c.intermediate, h), normal(h, c.intermediate)
    p["head"] = normal(vocab, h)
    p["d2t"] = torch.zeros(vocab, dtype=torch.int64, device=device)
    return config, p


def decode_bytes(parameters: dict[str, Tensor], c: ModelConfig) -> int:
    """Weights that a decoding step of one row reads, in bytes: all but the embedding table."""
    total = 0
    for name, tensor in parameters.items():
        size = tensor.numel() * tensor.element_size()
        if ".experts_" in name:
            size = size * c.experts_per_token // c.experts
        total += size if name != "embed" else 0
    return total
