"""The quantization_config of a config.json: FP8 weights with a scale for each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundryrt.errors import UsageError

_BLOCK = 128
_SUPPORTED = {
    "quant_method": ("fp8",), "fmt": (None, "e4m3"), "activation_scheme": (None, "dynamic"),
    "weight_block_size": ([_BLOCK, _BLOCK],),
}  # fmt: skip


def read_scale_block(values: Mapping[str, Any], where: str) -> int:
    """Rows, and columns, of a block that has one scale; 0 where weights are not quantized.

    UsageError names what is not supported. Which modules are quantized, their tensors say: so
    `modules_to_not_convert` is not read. Whether rows are quantized, too, as a "dynamic"
    `activation_scheme` means, a capture's settings say (`fp8_activations`).
    """
    found = values.get("quantization_config")
    if not found:
        return 0
    if not isinstance(found, Mapping):
        raise UsageError(f"{where}: quantization_config is not a JSON object")
    for name, supported in _SUPPORTED.items():
        if (value := found.get(name)) not in supported:
            raise UsageError(
                f"{where}: quantization_config has {name} {str(value)[:40]!r}, not "
                f"{supported[-1]!r}; take the unquantized weights, or FP8 in blocks of "
                f"{_BLOCK} x {_BLOCK}"
            )
    return _BLOCK
