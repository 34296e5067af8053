"""A causal language model of transformers with a static cache, ready to be captured."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundryrt.errors import FoundryError, UsageError, install

ATTENTION = "foundry_sdpa"
_LAYERS = {"full_attention", "sliding_attention"}
_GROWING = {"dynamic", "longrope"}


def load(folder: Path, dtype: str) -> Any:
    """The model of a folder, its weights in `dtype` ("auto": as stored); nothing is downloaded.

    UsageError where transformers cannot load it as a causal language model.
    """
    transformers = _transformers()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", local_files_only=True
        ).eval()
        if model._supports_sdpa:
            model.set_attn_implementation(ATTENTION)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of safetensors, or of any model's own code
        text = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{folder}: transformers cannot load it: {text[:300]}") from error
    config = _text_config(model)
    if other := sorted({*(getattr(config, "layer_types", None) or ())} - _LAYERS):
        raise UsageError(f"{folder}: has layers of type {other[0]}; only attention is supported")
    if growing := _rope_types(config) & _GROWING:
        raise UsageError(
            f"{folder}: its rotary embedding ({growing.pop()}) changes with the length of the text,"
            " which a graph cannot"
        )
    return model


def _rope_types(config: Any) -> set[str]:
    """Of all layers, or of each type of them."""
    given = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in given.values() if isinstance(part, dict)] or [given]
    return {str(part.get("rope_type")) for part in parts}


def _transformers() -> Any:
    """transformers, told of an attention whose masks do not depend on what the cache holds."""
    transformers: Any
    try:
        import transformers
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise FoundryError(
            f"workload 'hf' needs {error.name}, which is not installed: {install('hf')}"
        ) from error

    def mask(*args: Any, **given: Any) -> Any:
        # Whether a mask can be left out is a question of the cache's length, on the device.
        return sdpa_mask(*args, **{**given, "allow_is_causal_skip": False})

    transformers.logging.disable_progress_bar()  # the command has one
    transformers.AttentionInterface.register(ATTENTION, sdpa_attention_forward)
    transformers.AttentionMaskInterface.register(ATTENTION, mask)
    return transformers


def _text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


class CachedModel:
    """`model` over a cache of `max_len` tokens of one sequence; the cache counts them itself.

    Layers with a sliding window keep all tokens, too: transformers' own cache for them decides in
    Python how to move them, which a graph cannot. Their masks leave out what is too old.
    """

    def __init__(self, model: Any, max_len: int) -> None:
        from transformers import Cache, StaticLayer

        config = _text_config(model)
        longest = getattr(config, "max_position_embeddings", None) or max_len
        if max_len > longest:
            raise UsageError(
                f"max-len {max_len} exceeds the model's {longest} positions: give --max-len "
                f"{longest} or less"
            )
        self.model = model
        self._layers: list[Any] = [
            StaticLayer(max_cache_len=max_len) for _ in range(config.num_hidden_layers)
        ]
        self._cache = Cache(layers=self._layers)
        taken = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in taken else "past_key_values"
        if self._cache_name not in taken:
            raise UsageError(f"{type(model).__name__}: has no KV cache, only such are supported")

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [vocabulary], float32, of what follows `tokens` [1, count] and all before."""
        given = {self._cache_name: self._cache, "use_cache": True, "logits_to_keep": 1}
        logits: Tensor = self.model(input_ids=tokens, **given).logits
        return logits[0, -1].float()

    def experts(self, implementation: str) -> None:
        """Have a mixture of experts computed so; its default loops over what the router chose."""
        if self.model._can_set_experts_implementation():
            self.model.set_experts_implementation(implementation)

    def reset(self) -> None:
        """A new sequence begins."""
        for layer in self._layers:
            layer.cumulative_length.zero_()

    def tensors(self) -> dict[str, tuple[Any, str]]:
        """By name the cache's tensors: the layer and its attribute; UsageError before a pass."""
        found = {}
        for i, layer in enumerate(self._layers):
            if not layer.is_initialized:
                raise UsageError(
                    f"{type(self.model).__name__}: layer {i} does not use the static cache"
                )
            for attribute in ("keys", "values", "cumulative_length"):
                found[f"cache.{i}.{attribute}"] = layer, attribute
        return found


def zeros(count: int) -> Tensor:
    """Tokens to be recorded with."""
    return torch.zeros(1, count, dtype=torch.int64)
