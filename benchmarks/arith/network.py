"""A Qwen3 decoder for training, its parameters named as in a Hugging Face checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.arith import vocabulary
from parse_runtime.kernels.rotate import rotate

HEAD_DIM, THETA, EPS, POSITIONS = 64, 10000.0, 1e-6, 512


@dataclass(frozen=True)
class Size:
    """What differs between target and draft."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int


class Layer(nn.Module):
    """One pre-norm layer with normalized queries and keys."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        h, d = size.hidden, HEAD_DIM
        self.size = size
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(h, size.heads * d, bias=False),
                "k_proj": nn.Linear(h, size.kv_heads * d, bias=False),
                "v_proj": nn.Linear(h, size.kv_heads * d, bias=False),
                "o_proj": nn.Linear(size.heads * d, h, bias=False),
                "q_norm": nn.RMSNorm(d, EPS),
                "k_norm": nn.RMSNorm(d, EPS),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(h, size.intermediate, bias=False),
                "up_proj": nn.Linear(h, size.intermediate, bias=False),
                "down_proj": nn.Linear(size.intermediate, h, bias=False),
            }
        )
        self.input_layernorm = nn.RMSNorm(h, EPS)
        self.post_attention_layernorm = nn.RMSNorm(h, EPS)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        cache: Tensor | None = None,
        position: int = 0,
    ) -> Tensor:
        """Hidden states [B, T, hidden]; `mask` [B, 1, T, T] is added to the scores.

        With `cache` [2, B, kv_heads, rows, head_dim] T is 1, and row `position` is written.
        """
        w = self.self_attn
        y = self.input_layernorm(x)
        q, k, v = (w[f"{name}_proj"](y).unflatten(-1, (-1, HEAD_DIM)) for name in "qkv")
        q = rotate(w["q_norm"](q.float()), *rotation).transpose(1, 2).to(v.dtype)
        k = rotate(w["k_norm"](k.float()), *rotation).transpose(1, 2).to(v.dtype)
        v = v.transpose(1, 2)
        if cache is not None:
            cache[0, :, :, position], cache[1, :, :, position] = k[:, :, 0], v[:, :, 0]
            k, v = cache[:, :, :, : position + 1].unbind(0)
        group = self.size.heads // self.size.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        causal = mask is None and cache is None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        x = x + w["o_proj"](y.transpose(1, 2).flatten(2))
        y, m = self.post_attention_layernorm(x), self.mlp
        return x + m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y))


class Network(nn.Module):
    """Embedding, layers, norm and output projection."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocabulary.SIZE, size.hidden)
        self.model.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.model.norm = nn.RMSNorm(size.hidden, EPS)
        self.lm_head = nn.Linear(size.hidden, vocabulary.SIZE, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = (2 * size.layers) ** -0.5 if deep else 1.0
                nn.init.normal_(weight, std=scale * weight.shape[1] ** -0.5)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.5)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        tap: int = -1,
        run: Callable[..., Tensor] = Layer.forward,
    ) -> tuple[Tensor, Tensor]:
        """Normalized hidden states [B, T, hidden] of int64 [B, T] tokens at their positions.

        The second result is the hidden states that enter layer `tap`. `run` is
        `Layer.forward`, or that compiled: all layers share one compilation.
        """
        x = self.model.embed_tokens(tokens)
        rotation, tapped = rotations(positions), x
        for index, layer in enumerate(self.model.layers):
            if index == tap:
                tapped = x
            x = run(layer, x, rotation, mask)
        return self.model.norm(x), tapped

    def step(self, tokens: Tensor, position: int, cache: Tensor) -> Tensor:
        """Logits [B, vocab] after tokens [B], all at `position`; see `new_cache`."""
        x = self.model.embed_tokens(tokens[:, None])
        rotation = rotations(torch.full_like(tokens[:, None], position))
        for index, layer in enumerate(self.model.layers):
            x = layer(x, rotation, None, cache[index], position)
        return self.lm_head(self.model.norm(x))[:, 0].float()

    def new_cache(self, batch: int, rows: int, dtype: torch.dtype) -> Tensor:
        """[layers, 2, B, kv_heads, rows, head_dim]."""
        shape = (self.size.layers, 2, batch, self.size.kv_heads, rows, HEAD_DIM)
        return torch.zeros(shape, dtype=dtype, device=self.lm_head.weight.device)

    def save(self, folder: Path) -> None:
        """A Hugging Face folder with bfloat16 weights."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": vocabulary.SIZE,
            "hidden_size": self.size.hidden,
            "intermediate_size": self.size.intermediate,
            "num_hidden_layers": self.size.layers,
            "num_attention_heads": self.size.heads,
            "num_key_value_heads": self.size.kv_heads,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": POSITIONS,
            "rms_norm_eps": EPS,
            "rope_theta": THETA,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "eos_token_id": vocabulary.ids(vocabulary.END)[0],
            "torch_dtype": "bfloat16",
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        vocabulary.save(folder)
        weights = {k: v.to(torch.bfloat16).contiguous().cpu() for k, v in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})


def rotations(positions: Tensor) -> Tensor:
    """Cosine and sine [2, B, T, 1, head_dim / 2]."""
    half = HEAD_DIM // 2
    exponents = torch.arange(half, device=positions.device) / half
    angles = positions.float()[:, :, None, None] * THETA**-exponents
    return torch.stack((angles.cos(), angles.sin()))
