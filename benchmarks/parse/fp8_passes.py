"""Prefill passes of a model whose projections are in FP8, with rows as they are and in FP8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.parse.measure import CapturedSession, median_seconds
from benchmarks.parse.models import PROJECTIONS, Model
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.kernels.activations import LARGEST
from parse_runtime.kernels.quantized import BLOCK
from parse_runtime.signature.sizes import PassSizes


def in_fp8(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Projections in FP8; the blocks of a matrix have the same scale, which costs the same time."""
    found = dict(parameters)
    for name, weight in parameters.items():
        if name.rpartition(".")[2] in PROJECTIONS:
            scale = float(weight.abs().max()) / LARGEST
            *outer, n, k = weight.shape
            found[name] = (weight / scale).to(torch.float8_e4m3fn)
            shape = *outer, -(-n // BLOCK), -(-k // BLOCK)
            found[f"{name}_scale"] = torch.full(shape, scale, device=weight.device)
    return found


def prefills(
    model: Model, device: str, counts: tuple[int, ...], ways: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """By number of rows: device milliseconds of a prefill pass of one prompt, by way.

    `bf16`: weights in bfloat16; `weights`: in FP8; `fp8`: rows, too.
    """
    config, parameters = model
    quantized, sessions = in_fp8(parameters), {}
    sizes = PassSizes(
        max_len=counts[-1] + 8, slots=1, prefill=counts, prompts=(1,) * len(counts), decode=(1,)
    )
    for way in ways:
        session = CapturedSession(device)
        given = parameters if way == "bf16" else quantized
        passes = Passes(
            "target", config, given, sizes, session.register, fp8_activations=way == "fp8"
        )
        session.add(passes)
        sessions[way] = session, passes.signature, GraphDecoder(session, passes.signature)
    for count in counts:
        row: dict[str, Any] = {"rows": count, "layers": config.layers}
        for way, (session, signature, decoder) in sessions.items():
            decoder.prefill(0, list(range(count)), 0, Sampling())
            found = signature.prefill(count)
            row[f"ms_{way}"] = median_seconds(session.graph(found.graph, **found.key).launch) * 1e3
        yield row
