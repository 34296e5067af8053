"""What each pass of a pair takes on this machine, in turn in one process, by torch on the CPU."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from typer import Option

from benchmarks.device import cpu
from benchmarks.judge.gather import Gatherer
from benchmarks.judge.passes import Network
from benchmarks.judge.predict import Costs
from benchmarks.report import say, today, write_results
from parse_runtime.engine.judge import stride_cuts
from parse_runtime.kernels.evidence import by_cut, least_sure
from parse_runtime.kernels.likelihood import token_likelihood
from parse_runtime.signature.evidence import FLOOR, SCOPES, STATISTICS, UNLIKELY
from parse_runtime.weights.source import open_model

PROMPT, DRAFTED, STRIDE = 40, 64, 16
DEPTHS = (8, 16)
"""Of exact speculation and of FLy's."""
BATCHES = (1, 4, 16)
SHARES = {"": 0.0, ", evidence of half": 0.5, ", evidence": 1.0}
"""Of the drafted tokens that the target is asked about."""


def run(
    model: Annotated[str, Option(help="Target, as of foundryc capture.")],
    draft: Annotated[str, Option(help="Its draft model, of the same tokenizer.")],
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="Results, as JSON.")],
    rounds: Annotated[int, Option(help="Times that each pass runs.")] = 12,
    threads: Annotated[int, Option(help="Of torch.")] = 1,
    dtype: Annotated[str, Option(help="float32 or bfloat16.")] = "bfloat16",
    only: Annotated[str, Option(help="Passes whose names begin so.")] = "",
) -> None:
    """Measure the passes of a pair on a CPU."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        pair = Gatherer(open_model(model), open_model(draft), dtype, DRAFTED, STRIDE)
        say("loaded")
        times = measure(pair, rounds, only)
    load = os.getloadavg()[0]
    about = {"date": today(), "processor": cpu(), "threads": threads, "load": round(load, 1)}
    found = {name: round(statistics.median(each), 2) for name, each in times.items()}
    told: dict[str, object] = {"rounds": rounds, "milliseconds": found}
    if (judged := f"verify {DRAFTED} judged") in times:
        # Other jobs lengthen some; medians of a few would say more of them than of the pass.
        cost = min(times[f"{judged}, evidence of half"]) / min(times[judged])
        told["evidence_cost"] = round(cost, 4)
    write_results(output, {**about, **told})


def measure(pair: Gatherer, rounds: int, only: str = "") -> dict[str, list[float]]:
    """Milliseconds of each pass in each of `rounds` rounds but the first, all once in each."""
    calls = {name: call for name, call in _calls(pair).items() if name.startswith(only)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begin))
        say(f"round {number + 1} of {rounds}")
    return {name: found[1:] for name, found in times.items()}


def _calls(pair: Gatherer) -> dict[str, Callable[[], object]]:
    """The passes by name."""
    tokens = np.random.default_rng(0).integers(100, 9000, PROMPT + DRAFTED).tolist()
    networks = {"target": pair.target, "draft": pair.draft}
    found: dict[str, Callable[[], object]] = {
        f"{name} prefill": partial(_prefill, network, tokens[:PROMPT])
        for name, network in networks.items()
    }
    for batch in BATCHES:
        slots, places = list(range(batch)), [PROMPT + 30] * batch
        for name, network in networks.items():
            found[f"{name} step {batch}"] = partial(network.step, slots, [5] * batch, places)
        for depth in DEPTHS:
            chains = torch.full((batch, depth + 1), 5)
            call = partial(pair.target.chains, slots, chains, places)
            found[f"chains of {depth} {batch}"] = call
    for drafted in (STRIDE, DRAFTED):
        for judged in ("", " judged"):
            for name, share in SHARES.items():
                call = partial(verify, pair, tokens[: drafted + 1], bool(judged), share)
                found[f"verify {drafted}{judged}{name}"] = call
    return found


def _prefill(network: Network, tokens: list[int]) -> object:
    return network.logits(network.read(0, tokens)[-1:])


def verify(pair: Gatherer, tokens: list[int], judged: bool, share: float) -> object:
    """The work of a verify pass: the token before the draft, the draft, a question at each cut.

    `share` of the drafted tokens is evidence taken of.
    """
    count = len(tokens) - 1
    cuts = stride_cuts(count, STRIDE)
    suffix = pair.suffix if judged else []
    trunk, ends = pair.judge.verify(0, tokens, suffix, [1 + cut for cut in cuts])
    if not share:
        return pair.judge.logits(ends).float()
    segments = torch.from_numpy(np.searchsorted(cuts, np.arange(1, count + 1)))
    draft = -torch.arange(count) / count
    some, place = least_sure(draft, segments, len(cuts), math.ceil(share * count))
    drafted = torch.tensor(tokens[1:])
    scores = pair.judge.logits(torch.cat((ends, trunk[some])))
    said = token_likelihood(scores[len(cuts) :], drafted[some], FLOOR)
    carried = torch.zeros(len(SCOPES), len(STATISTICS))
    chosen = scores[: len(cuts), :2].float()
    return by_cut(chosen, said, place, drafted, draft, segments == 0, segments, carried, UNLIKELY)


def costs(measured: dict[str, float], batch: int, suffix: int, depth: int) -> Costs:
    """Of so many answers at a time; milliseconds to seconds."""
    rows, seconds = [], []
    for drafted in (STRIDE, DRAFTED):
        for judged, asked in (("", 0), (" judged", suffix)):
            rows.append(drafted + len(stride_cuts(drafted, STRIDE)) * asked)
            seconds.append(measured[f"verify {drafted}{judged}, evidence of half"] / 1e3)
    row, base = np.polyfit(rows, seconds, 1)
    return Costs(
        target_prefill=measured["target prefill"] / 1e3,
        draft_prefill=measured["draft prefill"] / 1e3,
        target_step=measured[f"target step {batch}"] / 1e3 / batch,
        draft_step=measured[f"draft step {batch}"] / 1e3 / batch,
        extend=measured[f"chains of {depth} {batch}"] / 1e3 / batch,
        verify=float(base), verify_row=float(row), suffix=suffix, depth=depth,
    )  # fmt: skip
