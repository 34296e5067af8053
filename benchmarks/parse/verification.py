"""One-pass verification against the other ways to judge K prefixes of a draft."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.parse.measure import CapturedSession, median_seconds
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.kernels.attend_rows import attend_rows
from parse_runtime.kernels.linear import linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.models.cache import Cache
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.decoder import Pass, forward, logits, mlp, store
from parse_runtime.models.rows import Rows
from parse_runtime.signature.plan import causal
from parse_runtime.signature.sizes import PassSizes


@dataclass(frozen=True)
class Sizes:
    """Tokens of the prompt, the draft and the judge's suffix; numbers of cuts."""

    prompt: int = 512
    draft: int = 512
    suffix: int = 32
    cuts: tuple[int, ...] = (2, 4, 8, 16, 32)


def verification(
    config: ModelConfig, parameters: dict[str, Tensor], device: str, sizes: Sizes
) -> Iterator[dict[str, float]]:
    """For each K: seconds of one pass, of a plain prefill of as many tokens, and of K prefixes
    judged one by one with and without reuse of their common tokens, and as a batch.

    Prefixes without reuse are timed at eight lengths; between them the times are interpolated.
    """
    s = sizes
    full = [s.prompt + s.draft * i // 8 + s.suffix for i in range(1, 9)]
    rows = {k: s.draft + k * s.suffix for k in s.cuts}
    chunks = {k: s.draft // k + s.suffix for k in s.cuts}
    pass_sizes = PassSizes(
        max_len=s.prompt + max(rows.values()),
        prefill=tuple(sorted({s.prompt, *full, *rows.values(), *chunks.values()})),
        verify=tuple((rows[k], k) for k in s.cuts),
    )
    session = CapturedSession(device)
    passes = Passes("target", config, parameters, pass_sizes, session.register)
    session.add(passes)
    target = GraphTarget(session, passes.signature)
    tokens = (np.arange(pass_sizes.max_len) % config.vocab).tolist()

    def prefill(start: int, length: int) -> float:
        target.prefill(0, tokens[start : start + length], start, Sampling())
        return median_seconds(session.graph("target.prefill", len=length).launch, 5)

    alone = [prefill(0, length) for length in full]
    target.prefill(0, tokens[: s.prompt], 0, Sampling())
    for k in s.cuts:
        cuts = [s.prompt + s.draft * i // k for i in range(1, k + 1)]
        shared = tokens[s.prompt : s.prompt + s.draft]
        target.verify(0, Verification(shared, s.prompt, cuts, tokens[: s.suffix]))
        graph = session.graph("target.verify", len=rows[k], cuts=k)
        one_pass = median_seconds(graph.launch, 5)
        lengths = [cut + s.suffix for cut in cuts]
        yield {
            "cuts": k,
            "tokens": rows[k],
            "one_pass": one_pass,
            "prefill": prefill(s.prompt, rows[k]),
            "sequential_reuse": sum(prefill(cut - s.draft // k, chunks[k]) for cut in cuts),
            "sequential": float(np.interp(lengths, full, alone).sum()),
            "batch": batch_seconds(config, parameters, device, lengths),
        }


def evidence_seconds(
    config: ModelConfig, parameters: dict[str, Tensor], device: str, sizes: Sizes
) -> dict[str, float]:
    """Seconds of a verify pass with each share of drafted tokens that the target is asked about.

    Of `sizes.cuts` the largest; the passes are timed in turn, and "0" has no evidence at all.
    """
    s = sizes
    k = max(s.cuts)
    rows = s.draft + k * s.suffix
    tokens = (np.arange(s.prompt + rows) % config.vocab).tolist()
    cuts = [s.prompt + s.draft * i // k for i in range(1, k + 1)]
    shared, suffix = tokens[s.prompt : s.prompt + s.draft], tokens[: s.suffix]
    graphs = {}
    for share in (0.0, 0.5, 1.0):
        own = PassSizes(
            max_len=s.prompt + rows, prefill=(s.prompt,), verify=((rows, k),),
            scored=(s.draft,) if share else (),
        )  # fmt: skip
        session = CapturedSession(device)
        said = session.register(
            "draft.likelihood", -torch.rand(own.slots, own.max_len + 1), "state"
        )
        passes = Passes(
            "target", config, parameters, own, session.register, asked=share or 1.0,
            draft_likelihood=said,
        )  # fmt: skip
        session.add(passes)
        target = GraphTarget(session, passes.signature)
        target.prefill(0, tokens[: s.prompt], 0, Sampling())
        target.verify(0, Verification(shared, s.prompt, cuts, suffix))
        graphs[f"{share:g}"] = session.graph("target.verify", len=rows, cuts=k)
    times: dict[str, list[float]] = {share: [] for share in graphs}
    for _ in range(7):
        for share, graph in graphs.items():
            times[share].append(median_seconds(graph.launch, 3))
    return {share: statistics.median(found) for share, found in times.items()}


def batch_seconds(
    config: ModelConfig, parameters: dict[str, Tensor], device: str, lengths: list[int]
) -> float:
    """Seconds of one pass over sequences of these lengths, each in a slot of its own.

    Products run over all rows together, attention runs slot by slot.
    """
    plans = [torch.from_numpy(causal([1] * n, 0, n, max(lengths))) for n in lengths]
    slots = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    rows = Rows(*torch.cat(plans, dim=1).to(device).unbind(0), slots=slots.to(device))
    like = torch.empty(0, dtype=torch.bfloat16, device=device)
    cache = Cache.apart(like, config, len(lengths), max(lengths) + 1)
    frequencies = torch.tensor(config.inverse_frequencies(), device=device)
    ends = torch.tensor(lengths, device=device).cumsum(0) - 1

    def layer(
        w: Mapping[str, Tensor], shared: Pass, added: Tensor, hidden: Any, stored: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, entered = add_rms_norm(added, hidden, w["input_norm"], config.rms_eps)
        q = store(w, shared, linear_parts(x, w["qkv"]), stored)
        parts, first = [], 0
        for slot, length in enumerate(lengths):
            here = slice(first, first + length)
            numbers = (rows.rows[here], rows.cuts[here], rows.starts[here])
            parts.append(attend_rows(q[here], stored, cache.tables, every[slot], *numbers, length))
            first += length
        added = linear_parts(torch.cat(parts), w["o"])
        x, hidden = add_rms_norm(added, entered, w["post_norm"], config.rms_eps)
        return mlp(w, x), entered, hidden

    every = torch.arange(len(lengths), device=device)[:, None]

    def run() -> None:
        with torch.inference_mode():
            x, _ = forward(
                parameters, config, frequencies, rows, cache, max(lengths), (), layer
            )  # fmt: skip
            logits(parameters, x.index_select(0, ends))

    return median_seconds(run, 3)
