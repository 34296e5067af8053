"""Prompts that share prefill passes, beside a pass for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.parse.measure import CapturedSession, median_seconds, wall_seconds
from benchmarks.parse.models import Model
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Chunk, Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.signature.sizes import PassSizes, prompts_of


def shared_passes(
    model: Model, device: str, lengths: tuple[int, ...], prompt: int, slots: int
) -> Iterator[dict[str, Any]]:
    """For passes of up to each of `lengths` rows: prompt tokens a second of `slots` prompts.

    `tokens_per_second` together, and one prompt after the other; `seconds` of the largest pass;
    `scratch_bytes`, by how much more device memory passes of these lengths need than the shortest
    alone. With the host's part: every token is read.
    """
    config, parameters = model
    base = 0
    for count in range(1, len(lengths) + 1):
        some = lengths[:count]
        sizes = PassSizes(
            max_len=prompt + 8, slots=slots, prefill=some, decode=(1,),
            prompts=tuple(prompts_of(rows, slots) for rows in some),
        )  # fmt: skip
        session = CapturedSession(device)
        passes = Passes("target", config, parameters, sizes, session.register)
        session.add(passes)
        decoder = GraphDecoder(session, passes.signature)
        prompts = [Chunk(s, list(range(s, s + prompt)), 0, Sampling()) for s in range(slots)]
        first = decoder.prefill_all(prompts)
        alone = [decoder.prefill_all([one])[0] for one in prompts]
        seconds = wall_seconds(lambda d=decoder, p=prompts: d.prefill_all(p))
        in_turn = wall_seconds(lambda d=decoder, p=prompts: [d.prefill_all([one]) for one in p])
        signature = passes.signature.prefill(some[-1])
        graph = session.graph(signature.graph, **signature.key)
        used = torch.cuda.memory_reserved() if device == "cuda" else 0
        base = base or used
        yield {
            "lengths": list(some), "prompt": prompt, "prompts": slots,
            "seconds": median_seconds(graph.launch), "scratch_bytes": used - base,
            "tokens_per_second": slots * prompt / seconds,
            "tokens_per_second_in_turn": slots * prompt / in_turn,
            "same_tokens": sum(a == b for a, b in zip(first, alone, strict=True)),
        }  # fmt: skip
        del session, passes, decoder, graph
        if device == "cuda":
            torch.cuda.empty_cache()
