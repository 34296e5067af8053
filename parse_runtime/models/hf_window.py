"""Which layers of a config.json have a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundryrt.errors import UsageError

_EVERY = ("mistral", "mixtral", "qwen3_moe")
"""Where one layer has a window, all have."""
_BY_FLAG = ("qwen2", "qwen3", "qwen3_moe")
"""A window counts only with `use_sliding_window`."""
_WINDOW = {"mixtral": None}
_USUAL = 4096


def read_window(
    values: Mapping[str, Any], architecture: str, layers: int, where: str
) -> tuple[int, tuple[int, ...]]:
    """The window and the layers that have it, (0, ()) for none, as transformers reads them.

    UsageError names layer types that are not supported.
    """
    types = list(values.get("layer_types") or ())
    if unknown := set(types) - {"full_attention", "sliding_attention"}:
        raise UsageError(f"{where}: layer_types {unknown.pop()!r} is not supported")
    if architecture == "llama":
        if values.get("use_sliding_window") or "sliding_attention" in types:
            raise UsageError(f"{where}: a sliding window is not supported for {architecture}")
        return 0, ()
    window = values.get("sliding_window", _WINDOW.get(architecture, _USUAL))
    if architecture in _BY_FLAG and not values.get("use_sliding_window"):
        window = None
    if not window:
        if "sliding_attention" in types:
            raise UsageError(f"{where}: layer_types has sliding_attention, but there is no window")
        return 0, ()
    if architecture in _EVERY:
        if "full_attention" in types:
            raise UsageError(f"{where}: layer_types is not supported for {architecture}")
        return int(window), tuple(range(layers))
    if not types:
        types = _usual_types(values, architecture, layers)
    if len(types) < layers:
        raise UsageError(f"{where}: layer_types has {len(types)} entries for {layers} layers")
    windowed = tuple(i for i in range(layers) if types[i] == "sliding_attention")
    return (int(window), windowed) if windowed else (0, ())


def _usual_types(values: Mapping[str, Any], architecture: str, layers: int) -> list[str]:
    """Of files written before there was a `layer_types`."""
    if architecture in ("qwen2", "qwen3"):
        first = int(values.get("max_window_layers", 28))
        full = set(range(min(first, layers)))
    else:
        period = int(values.get("sliding_window_pattern", 6)) if architecture == "gemma3" else 2
        full = set(range(period - 1, layers, period))
    return ["full_attention" if i in full else "sliding_attention" for i in range(layers)]
