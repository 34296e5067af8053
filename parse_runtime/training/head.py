"""The EAGLE-3 head (arXiv 2503.01840) as a module whose parameters have the published names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foundryrt.errors import UsageError
from parse_runtime.kernels.rotate import rotate
from parse_runtime.models.config import ModelConfig


class Norm(nn.RMSNorm):
    """In the type of its input: mixed types have no fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Midlayer(nn.Module):
    """The head's only layer: attention over token and feature side by side."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c, h = config, config.hidden
        self.config = config
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(2 * h, c.heads * c.head_dim, bias=False),
                "k_proj": nn.Linear(2 * h, c.kv_heads * c.head_dim, bias=False),
                "v_proj": nn.Linear(2 * h, c.kv_heads * c.head_dim, bias=False),
                "o_proj": nn.Linear(c.heads * c.head_dim, h, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(h, c.intermediate, bias=False),
                "up_proj": nn.Linear(h, c.intermediate, bias=False),
                "down_proj": nn.Linear(c.intermediate, h, bias=False),
            }
        )
        self.hidden_norm = Norm(h, c.rms_eps)
        self.input_layernorm = Norm(h, c.rms_eps)
        self.post_attention_layernorm = Norm(h, c.rms_eps)

    def project(
        self, embedded: Tensor, feature: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each [B, heads, T, head_dim], keys repeated over their group."""
        c, w = self.config, self.self_attn
        x = torch.cat((self.input_layernorm(embedded), self.hidden_norm(feature)), -1)
        q, k, v = (w[f"{name}_proj"](x).unflatten(-1, (-1, c.head_dim)) for name in "qkv")
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        k, v = k.repeat_interleave(c.group, 2), v.repeat_interleave(c.group, 2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def finish(self, feature: Tensor, attended: Tensor) -> Tensor:
        """The next feature [B, T, hidden] of what attention [B, heads, T, head_dim] gave."""
        x: Tensor = feature + self.self_attn["o_proj"](attended.transpose(1, 2).flatten(2))
        y, m = self.post_attention_layernorm(x), self.mlp
        block: Tensor = m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y))
        return x + block


class Head(nn.Module):
    """Drafts tokens from features of three layers of a target.

    `tokens` are the target's ids that the head may draft, rising. The target's embedding table is
    used and stays as it is.
    """

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: ModelConfig, tokens: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(3 * config.hidden, config.hidden, bias=False)
        self.midlayer = Midlayer(config)
        self.norm = Norm(config.hidden, config.rms_eps)
        self.lm_head = nn.Linear(config.hidden, len(tokens), bias=False)
        ids = torch.tensor(tokens, dtype=torch.int64)
        self.register_buffer("d2t", ids - torch.arange(len(tokens)))
        self.register_buffer("t2d", torch.zeros(config.vocab, dtype=torch.bool))
        self.t2d[ids] = True

    @property
    def tokens(self) -> Tensor:
        """Target ids of the draft vocabulary."""
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    def restore(self, folder: Path) -> None:
        """What `save` wrote; UsageError where the folder has no head of the same sizes."""
        try:
            self.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UsageError(f"{folder}: no head to go on from: {error}") from error

    def save(self, folder: Path, target: dict[str, Any]) -> None:
        """A checkpoint in the published form; `target` is the target's config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        c = self.config
        rope: dict[str, Any] = {
            k: target[k] for k in ("rope_theta", "rope_scaling", "rope_parameters") if k in target
        }
        config: dict[str, Any] = {
            "architectures": ["LlamaForCausalLMEagle3"],
            "model_type": "llama",
            "hidden_size": c.hidden,
            "intermediate_size": c.intermediate,
            "num_hidden_layers": 1,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": c.max_positions,
            "rms_norm_eps": c.rms_eps,
            "vocab_size": c.vocab,
            "draft_vocab_size": len(self.d2t),
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            **rope,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        stored = {
            name: (value.to(torch.bfloat16) if value.is_floating_point() else value).cpu()
            for name, value in self.state_dict().items()
        }
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
