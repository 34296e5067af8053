"""A folder with a model of real geometry, as transformers reads it: random weights, a tokenizer.

The token after t is t + 1 (benchmarks/parse/models.py), so every answer is known, and rounding
does not change it. Arguments: name, folder, device.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.parse.models import CONFIGS, random_parameters
from benchmarks.parse.peers import transformers_names
from benchmarks.serving.text_files import write_text
from parse_runtime.models.config import ModelConfig

_SHARD = 4 << 30


def write(name: str, folder: Path, device: str) -> None:
    """Files of the model; config.json, without which it is none, comes last."""
    config = CONFIGS[name]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(config.vocab, folder)
    _write_weights(config, folder, device)
    (folder / "config.json").write_text(json.dumps(_described(config), indent=1))


def _described(c: ModelConfig) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": c.hidden,
        "intermediate_size": c.intermediate, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim, "vocab_size": c.vocab, "tie_word_embeddings": False,
        "rms_norm_eps": c.rms_eps, "rope_theta": c.rope_theta,
        "max_position_embeddings": c.max_positions, "hidden_act": "silu",
        "attention_bias": False, "torch_dtype": "bfloat16", "eos_token_id": 0,
        "bos_token_id": 0,
    }  # fmt: skip


def _write_weights(c: ModelConfig, folder: Path, device: str) -> None:
    parameters = random_parameters(c, device)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in transformers_names(c, parameters).items():
        size += tensor.nbytes
        if size > _SHARD and shards[-1]:
            shards.append({})
            size = tensor.nbytes
        shards[-1][name] = tensor
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in shard.items()}, folder / file)
        files |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
