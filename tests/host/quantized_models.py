"""Tiny random models as FP8 checkpoints, and what transformers makes of their exact weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from parse_models import save
from quantized_cases import exact, exact_rows, quantize
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

SIZES = {
    "hidden_size": 320, "intermediate_size": 512, "num_hidden_layers": 2, "head_dim": 128,
    "num_attention_heads": 8, "num_key_value_heads": 4, "initializer_range": 0.08,
}  # fmt: skip
"""Four ranks have whole blocks each; hidden states end inside one."""
MIXTURE = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 128,
    "norm_topk_prob": True, "mlp_only_layers": [1],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {"qwen3": {}, "qwen3_moe": MIXTURE}
PLAIN = "model.layers.1.mlp.down_proj"


def save_fp8(
    folder: Path, kind: str, scales: torch.dtype = torch.float32, **sizes: Any
) -> torch.nn.Module:
    """Write a model of SIZES whose projections are in FP8, but PLAIN; the oracle, in float64."""
    save(folder, kind, **{**SIZES, **KINDS[kind], **sizes})
    stored, dequantized = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        stored[name], dequantized[name] = weight, weight.double()
        if name.endswith("_proj.weight") and not name.startswith(PLAIN):
            made = quantize(weight)
            stored[name], stored[f"{name}_scale_inv"] = made.values, made.scale.to(scales)
            dequantized[name] = exact(made)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    copy = folder / "exact"
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps(config))
    save_file(dequantized, copy / "model.safetensors", metadata={"format": "pt"})
    config["quantization_config"] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
        "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", PLAIN],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    oracle = transformers.AutoModelForCausalLM.from_pretrained(
        copy, dtype=torch.float64, experts_implementation="eager"
    )
    assert oracle.dtype == torch.float64
    return oracle.eval()


def exact_logits(oracle: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    """Float64 [tokens, vocab]."""
    with torch.no_grad():
        found: np.ndarray = oracle(torch.tensor([tokens])).logits[0].numpy()
    return found


class RowsInFp8(TorchFunctionMode):
    """Within it an oracle rounds rows where its weights were made of FP8, but the rows `kept`."""

    def __init__(self, oracle: torch.nn.Module, kept: Sequence[int] = ()) -> None:
        super().__init__()
        self.oracle, self._kept = oracle, list(kept)
        self._fp8 = {
            parameter.untyped_storage().data_ptr()
            for name, parameter in oracle.named_parameters()
            if "_proj" in name and not name.startswith(PLAIN)
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear:
            x, weight, *rest = args
            if weight.untyped_storage().data_ptr() in self._fp8:
                rows = exact_rows(x)[0]
                if self._kept:
                    rows[..., self._kept, :] = x[..., self._kept, :]
                args = rows, weight, *rest
        return func(*args, **(kwargs or {}))
