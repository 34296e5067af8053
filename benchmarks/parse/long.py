"""Contexts of up to 32k tokens: prefill of a prompt, and decode steps at positions far apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.parse.measure import CapturedSession, median_seconds, wall_seconds
from benchmarks.parse.models import Model, decode_bytes
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.signature.sizes import PassSizes, prompts_of

_STEPS = 16
"""Launches of a graph whose steps are timed; each moves on by a token."""


@dataclass(frozen=True)
class Lengths:
    """Contexts that passes are captured for; where steps are timed; batches; rows of a pass."""

    contexts: tuple[int, ...] = (8192, 32768)
    positions: tuple[int, ...] = (1024, 8192, 32768)
    batches: tuple[int, ...] = (1, 8)
    rows: int = 2048


def long_contexts(
    model: Model, device: str, bandwidth: float, lengths: Lengths
) -> Iterator[dict[str, Any]]:
    """Of each context a row for the prefill, in passes of one prompt and of several, then rows for
    steps at each position that fits, of each batch.

    `bound_share` is the time in which the weights and the keys and values that are seen come at
    `bandwidth` (bytes a second), each once, over that of a step.
    """
    for context in lengths.contexts:
        for prompts in (1, prompts_of(lengths.rows, max(lengths.batches))):
            yield _prefill(model, device, context, lengths.rows, prompts)
            _free(device)
        yield from _steps(model, device, bandwidth, context, lengths)
        _free(device)


def _prefill(model: Model, device: str, context: int, rows: int, prompts: int) -> dict[str, Any]:
    """A prompt that fills the context, in pieces that go on from each other; warm."""
    c = model[0]
    sizes = PassSizes(
        max_len=context, slots=prompts, kv_tokens=context, prefill=(rows,), prompts=(prompts,),
        decode=(1,),
    )  # fmt: skip
    decoder, _ = _captured(model, device, sizes)
    prompt = [token % c.vocab for token in range(context)]
    decoder.prefill(0, prompt[:rows], 0, Sampling())
    seconds = wall_seconds(lambda: decoder.prefill(0, prompt, 0, Sampling()))
    last = wall_seconds(lambda: decoder.prefill(0, prompt[-rows:], context - rows, Sampling()))
    pairs = context * (context + 1) / 2
    linear = 2 * context * sum(
        p.numel() for name, p in model[1].items() if name not in ("embed", "head")
    )  # fmt: skip
    work = linear + 4 * pairs * c.heads * c.head_dim * c.layers
    return {
        "kind": "prefill", "context": context, "rows": rows, "prompts": prompts,
        "seconds": seconds, "tokens_per_second": context / seconds,
        "last_pass_seconds": last, "tflops": work / seconds / 1e12,
    }  # fmt: skip


def _steps(
    model: Model, device: str, bandwidth: float, context: int, lengths: Lengths
) -> Iterator[dict[str, Any]]:
    """Over random keys and values: what they are does not change the time."""
    c, parameters = model
    most = max(lengths.batches)
    sizes = PassSizes(
        max_len=context + 2 * _STEPS, slots=most, prefill=(32,), decode=lengths.batches
    )
    decoder, session = _captured(model, device, sizes)
    cache = session.tensors["target.cache"]
    for block in cache.split(256):
        block.normal_()
    for row in range(64, sizes.max_len + 64, 64):  # slots' blocks lie among each other
        for slot in range(most):
            decoder.tables.reserve(slot, min(row, sizes.max_len))
    row_bytes = 2 * c.layers * c.kv_heads * c.head_dim * cache.element_size()
    weights = decode_bytes(parameters, c)
    for position in (p for p in lengths.positions if p <= context):
        for batch in lengths.batches:
            slots, start = list(range(batch)), [position] * batch
            decoder.decode(Batch(slots, slots, start, [Sampling()] * batch))
            graph = session.graph("target.decode", batch=batch)
            seconds = median_seconds(graph.launch, _STEPS - 2)
            bound = (weights + batch * position * row_bytes) / bandwidth
            yield {
                "kind": "step", "context": context, "position": position, "batch": batch,
                "seconds": seconds, "bound_seconds": bound, "bound_share": bound / seconds,
            }  # fmt: skip


def _captured(model: Model, device: str, sizes: PassSizes) -> tuple[GraphDecoder, CapturedSession]:
    session = CapturedSession(device)
    passes = Passes("target", *model, sizes, session.register, run_ahead=True)
    session.add(passes)
    return GraphDecoder(session, passes.signature), session


def _free(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
