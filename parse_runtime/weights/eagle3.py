"""A published EAGLE-3 head: its folder, names and parameters (safetensors; docs/parse.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foundryc.weights import StoredTensor, WeightSlice, materialize, whole
from foundryc.weights.folders import stored_tensors
from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.hf_config import config_from_hf, read_json
from parse_runtime.weights.parameters import SAFETENSORS, Parameter, finder, mlp, refuse_unused

ARCHITECTURE = "LlamaForCausalLMEagle3"
_VARIANTS = {
    "num_hidden_layers": 1, "norm_before_residual": False, "norm_before_fc": False,
    "fc_norm": False, "use_aux_hidden_state": True, "parallel_drafting": False,
}  # fmt: skip
"""Fields of other heads, with the value that this one has."""
_PREFIXES = ("model.", "layers.0.", "midlayer.")


def open_head(folder: str, target: ModelConfig) -> tuple[ModelConfig, list[Parameter]]:
    """Configuration and recipes of the head in `folder`, which must fit the target.

    The configuration's `vocab` is that of the drafts. UsageError says what does not fit.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UsageError(f"eagle {folder}: no such folder")
    where = str(path / "config.json")
    values = read_json(path / "config.json")
    names = values.get("architectures")
    if not isinstance(names, list) or ARCHITECTURE not in names:
        raise UsageError(f"{where}: {ARCHITECTURE} is expected in 'architectures'")
    _refuse_variants(values, target, where)
    drafts = values.get("draft_vocab_size") or values.get("vocab_size")
    if not isinstance(drafts, int):
        raise UsageError(f"{where}: 'draft_vocab_size' is {str(drafts)[:40]!r}, not a number")
    changes = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
    config = replace(config_from_hf({**values, **changes}, where), vocab=drafts)
    if target.embedding_scale != 1:
        raise UsageError(f"eagle {folder}: heads of {target.architecture} are not supported")
    if config.hidden != target.hidden:
        raise UsageError(
            f"{where}: hidden_size {config.hidden} is not the target's {target.hidden}"
        )
    if not list(path.glob("*.safetensors")) and list(path.glob("*.bin")):
        raise UsageError(
            f"{path}: *.bin files are pickles, which can run code when read; convert them to "
            "safetensors"
        )
    stored: dict[str, StoredTensor] = {}
    for name, tensor in stored_tensors(path).items():
        if (plain := _plain(name)) in stored:
            raise UsageError(f"{path}: {stored[plain].name!r} and {name!r} are one tensor, twice")
        stored[plain] = tensor
    return config, _parameters(config, target, stored, str(path))


def _refuse_variants(values: Mapping[str, Any], target: ModelConfig, where: str) -> None:
    """UsageError names a field that asks for another head than `models/eagle3.py` computes."""
    # Imported late: a capture's options and its key do not need torch.
    from parse_runtime.models.eagle3 import tapped_layers

    nested = values.get("eagle_config")
    fields = {**(nested if isinstance(nested, dict) else {}), **values}
    layers = fields.get("eagle_aux_hidden_state_layer_ids")
    if layers and layers != list(tapped_layers(target.layers)):
        raise UsageError(
            f"{where}: eagle_aux_hidden_state_layer_ids {str(layers)[:40]} is not supported; only "
            f"{list(tapped_layers(target.layers))} is"
        )
    for name, usual in _VARIANTS.items():
        if fields.get(name, usual) not in (usual, None):
            raise UsageError(f"{where}: {name} {str(fields[name])[:40]} is not supported")
    if fields.get("target_hidden_size") not in (None, target.hidden):
        raise UsageError(f"{where}: target_hidden_size is not the target's {target.hidden}")


def _plain(name: str) -> str:
    """The name without what exporters put before it."""
    while any(name.startswith(prefix) for prefix in _PREFIXES):
        name = name.split(".", 2)[2] if name.startswith("layers.0.") else name.split(".", 1)[1]
    return name


def _parameters(
    c: ModelConfig, target: ModelConfig, stored: Mapping[str, StoredTensor], where: str
) -> list[Parameter]:
    find = finder(stored, f"{where}: the head's files")

    def one(name: str, source: str, *shape: int, dtype: str = "") -> Parameter:
        return Parameter(name, shape, whole(find(source, shape)), dtype)

    h, wide = c.hidden, 2 * c.hidden
    qkv, row = [], 0
    for name, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
        rows = heads * c.head_dim
        weight = find(f"self_attn.{name}_proj.weight", (rows, wide))
        qkv.append(WeightSlice(weight, rows, wide, row=row))
        row += rows
    result = [
        one("fc", "fc.weight", h, 3 * target.hidden),
        one("input_norm", "input_layernorm.weight", h),
        one("hidden_norm", "hidden_norm.weight", h),
        Parameter("qkv", (c.qkv_rows, wide), qkv),
        one("o", "self_attn.o_proj.weight", h, c.heads * c.head_dim),
        one("post_norm", "post_attention_layernorm.weight", h),
        *(Parameter(*found) for found in mlp(c, SAFETENSORS, find)),
        one("norm", "norm.weight", h),
        one("head", "lm_head.weight", c.vocab, h),
    ]
    derived = ("t2d", "rotary_emb.inv_freq", "self_attn.rotary_emb.inv_freq")
    if "embed_tokens.weight" in stored:
        result.append(one("embed", "embed_tokens.weight", target.vocab, h))
    if "d2t" in stored:
        result.append(one("d2t", "d2t", c.vocab, dtype="int64"))
        _check_targets(result[-1], target, where)
    elif c.vocab != target.vocab:
        raise UsageError(
            f"{where}: d2t is missing, and the draft vocabulary of {c.vocab} is not the target's "
            f"{target.vocab}"
        )
    unneeded = [tensor.name for name, tensor in stored.items() if name in derived]
    refuse_unused(result, stored, unneeded, f"{where}: the head's files")
    return result


def _check_targets(d2t: Parameter, target: ModelConfig, where: str) -> None:
    """UsageError where the map leads out of the target's vocabulary."""
    offsets = materialize(d2t.slices, d2t.shape, d2t.dtype).astype(np.int64)
    ids = np.arange(d2t.shape[0]) + offsets
    wrong = np.flatnonzero((ids < 0) | (ids >= target.vocab))
    if wrong.size:
        first = int(wrong[0])
        raise UsageError(
            f"{where}: d2t maps draft token {first} to {int(ids[first])}, but the target's "
            f"vocabulary has {target.vocab} tokens; the head is of another target"
        )
