"""transformers on the same weights: `generate` eagerly, compiled, and with an assistant model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parse.measure import wall_seconds
from parse_runtime.models.config import ModelConfig


def as_transformers(c: ModelConfig, p: dict[str, Tensor], device: str) -> Any:
    """A Qwen3ForCausalLM whose parameters are views of ours."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    config = Qwen3Config(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.intermediate,
        num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim, max_position_embeddings=c.max_positions, rms_norm_eps=c.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        tie_word_embeddings=False, attn_implementation="sdpa", dtype="bfloat16",
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    for name, tensor in transformers_names(c, p).items():
        module, _, attribute = name.rpartition(".")
        shared = nn.Parameter(tensor, requires_grad=False)
        setattr(model.get_submodule(module), attribute, shared)
    model.model.rotary_emb = Qwen3RotaryEmbedding(config).to(device)
    model.generation_config.eos_token_id = None
    left = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    if left:
        raise RuntimeError(f"parameters without values: {left[:3]}")
    return model.eval()


def transformers_names(c: ModelConfig, p: dict[str, Tensor]) -> dict[str, Tensor]:
    """Views of our parameters by the names that transformers gives them."""
    found = {
        "model.embed_tokens.weight": p["embed"],
        "model.norm.weight": p["norm"],
        "lm_head.weight": p["head"],
    }
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    for layer in range(c.layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        parts = p[ours + "qkv"].split((q, kv, kv))
        for name, part in zip("qkv", parts, strict=True):
            found[f"{theirs}self_attn.{name}_proj.weight"] = part
        gate, up = p[ours + "gate_up"].chunk(2)
        found |= {
            f"{theirs}self_attn.o_proj.weight": p[ours + "o"],
            f"{theirs}self_attn.q_norm.weight": p[ours + "q_norm"],
            f"{theirs}self_attn.k_norm.weight": p[ours + "k_norm"],
            f"{theirs}mlp.gate_proj.weight": gate,
            f"{theirs}mlp.up_proj.weight": up,
            f"{theirs}mlp.down_proj.weight": p[ours + "down"],
            f"{theirs}input_layernorm.weight": p[ours + "input_norm"],
            f"{theirs}post_attention_layernorm.weight": p[ours + "post_norm"],
        }
    return found


def rates(
    model: Any,
    assistant: Any,
    prompt: list[int],
    new_tokens: int,
    tell: Callable[[str, dict[str, Any]], None],
) -> None:
    """Greedy tokens a second of one sequence, prefill included; told as they are found.

    Eager with a dynamic cache; static cache, which `generate` compiles by itself on CUDA; assisted
    by the draft model, which transformers runs eagerly, too. The first run of each is not timed.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([prompt], device=device)
    # What is compiled depends on the cache's length, so there the first run is a whole one.
    ways: dict[str, tuple[int, dict[str, Any]]] = {
        "eager": (4, {}),
        "static_compiled": (new_tokens, {"cache_implementation": "static"}),
        "assisted": (16, {"assistant_model": assistant}),
    }
    for name, (warm, options) in ways.items():
        output: list[Any] = []

        def generate(count: int, options: Any = options, output: list[Any] = output) -> None:
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                do_sample=False, **options,
            )  # fmt: skip
            output.append(made)

        try:
            with torch.inference_mode():
                first = wall_seconds(lambda g=generate, n=warm: g(n))
                again = wall_seconds(lambda g=generate: g(new_tokens))
        except Exception as error:
            tell(name, {"error": f"{type(error).__name__}: {error}"[:500]})
            continue
        answer = output[-1][0, len(prompt) :].tolist()
        tell(
            name,
            {
                "tokens_per_second": len(answer) / again,
                "first_run_seconds": first,
                "follows": answer[:4],
            },
        )
