"""FP8 weights: with each parameter that is made of such tensors come the scales of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from foundryc.weights import StoredTensor, WeightSlice
from foundryrt.errors import UsageError
from parse_runtime.weights.parameters import Parameter

FP8 = "float8_e4m3fn"
SCALE = "_scale"
"""Behind a parameter's name, that of its scales."""
_SOURCE = "_scale_inv"
"""Behind a stored tensor's name, that of its scales. Values are multiplied by these."""
_SCALES = ("float32", "bfloat16", "float16")
_QUANTIZED = ("qkv", "o", "gate_up", "down", "experts_gate_up", "experts_down")


def with_scales(
    parameters: list[Parameter], stored: Mapping[str, StoredTensor], block: int
) -> list[Parameter]:
    """The parameters, those of FP8 tensors in FP8 and each with its scales behind it.

    The scales of a parameter [..., N, K] are float32 [..., ceil(N / block), ceil(K / block)].
    `block` is 0 where the configuration knows of no quantization. UsageError names a tensor that
    lacks its scale, has one of another shape, or is in FP8 where a model computes with others; and
    a scale that the model would be computed without.
    """
    found = []
    for p in parameters:
        fp8 = [part.stored for part in p.slices if part.stored.dtype == FP8]
        if not fp8:
            found.append(p)
            continue
        if not block or p.name.rpartition(".")[2] not in _QUANTIZED:
            why = "is not supported" if block else "needs a quantization_config in config.json"
            raise UsageError(f"{fp8[0].path}: tensor {fp8[0].name!r} in FP8 {why}")
        found += [replace(p, dtype=FP8), _scales(p, stored, block)]
    used = {part.stored.name for p in found for part in p.slices}
    for name in stored:
        if name.endswith(_SOURCE) and name.removesuffix(_SOURCE) in used and name not in used:
            raise UsageError(f"{stored[name].path}: {name!r} is the scale of a tensor not in FP8")
    return found


def _scales(p: Parameter, stored: Mapping[str, StoredTensor], block: int) -> Parameter:
    """Of a parameter whose stored tensors are whole and lie one below the other."""
    *outer, n, k = p.shape
    rows, columns = -(-n // block), -(-k // block)
    slices = []
    for part in p.slices:
        tensor, where = part.stored, f"{part.stored.path}: tensor {part.stored.name!r}"
        if tensor.dtype != FP8:
            raise UsageError(f"{where} is in {tensor.dtype}, but others of {p.name} are in FP8")
        scale = stored.get(tensor.name + _SOURCE)
        own = -(-tensor.rows // block), columns
        if scale is None:
            raise UsageError(f"{where} is in FP8 without {tensor.name + _SOURCE!r}")
        if scale.shape != own or scale.dtype not in _SCALES:
            raise UsageError(
                f"{scale.path}: {scale.name!r} is {scale.dtype} {list(scale.shape)}; a scale for "
                f"each {block} x {block} of {tensor.name!r} is float32 {list(own)}"
            )
        matrix, row = divmod(part.row, n)
        if row % block:
            raise UsageError(
                f"{where} would begin at row {row} of {p.name}, inside a block of {block} rows "
                "that has one scale; take the unquantized weights"
            )
        slices.append(WeightSlice(scale, *own, row=matrix * rows + row // block))
    return Parameter(p.name + SCALE, (*outer, rows, columns), slices, "float32")
