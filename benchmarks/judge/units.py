"""What each pass of a pair takes on this machine, in turn in one process, by torch on the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.judge.gather import STRIDE, Gatherer
from benchmarks.judge.predict import Costs
from benchmarks.report import say
from parse_runtime.engine.judge import stride_cuts
from parse_runtime.models import evidence
from parse_runtime.signature.evidence import STATISTICS

PROMPT, DRAFTED, CHAIN = 40, 64, 9
BATCHES = (1, 4, 16)


def measure(pair: Gatherer, rounds: int) -> dict[str, Any]:
    """Median milliseconds of each pass over `rounds` rounds, all passes once in each."""
    calls = _calls(pair)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begin))
        say(f"round {number + 1} of {rounds}")
    return {name: round(statistics.median(found[1:]), 2) for name, found in times.items()}


def _calls(pair: Gatherer) -> dict[str, Callable[[], object]]:
    """The passes by name; the first round warms up."""
    tokens = np.random.default_rng(0).integers(100, 9000, PROMPT + DRAFTED).tolist()
    found: dict[str, Callable[[], object]] = {
        f"{name} prefill": lambda network=network: network.logits(
            network.read(0, tokens[:PROMPT])[-1:]
        )
        for name, network in (("target", pair.target), ("draft", pair.draft))
    }
    for batch in BATCHES:
        slots, places = list(range(batch)), [PROMPT + 30] * batch
        for name, network in (("target", pair.target), ("draft", pair.draft)):
            found[f"{name} step {batch}"] = lambda network=network, slots=slots, places=places: (
                network.step(slots, [5] * len(slots), places).argmax(-1)
            )
        chains = torch.full((batch, CHAIN), 5)
        found[f"chains {batch}"] = lambda slots=slots, chains=chains, places=places: (
            pair.target.chains(slots, chains, places).argmax(-1)
        )
    for drafted in (STRIDE, DRAFTED):
        for judged in (True, False):
            for scored in (True, False):
                name = f"verify {drafted}{' judged' * judged}{' with evidence' * scored}"
                found[name] = lambda drafted=drafted, judged=judged, scored=scored: verify(
                    pair, tokens[: drafted + 1], judged, scored
                )
    return found


def verify(pair: Gatherer, tokens: list[int], judged: bool, scored: bool) -> object:
    """The work of a verify pass: the token before the draft, the draft, a question at each cut."""
    count = len(tokens) - 1
    cuts = stride_cuts(count, STRIDE)
    suffix = pair.suffix if judged else []
    trunk, ends = pair.judge.verify(0, tokens, suffix, [1 + cut for cut in cuts])
    found: list[object] = [pair.judge.logits(ends).float()]
    if scored:
        segments = torch.from_numpy(np.searchsorted(cuts, np.arange(1, count + 1)))
        each = evidence.statistics(
            pair.judge.logits(trunk[:-1]), torch.tensor(tokens[1:]), torch.zeros(count)
        )
        found.append(evidence.by_cut(each, segments, torch.zeros(2, len(STATISTICS)), len(cuts)))
    return found


def costs(measured: dict[str, float], batch: int, suffix: int) -> Costs:
    """Of so many answers at a time; milliseconds to seconds."""
    cuts = len(stride_cuts(DRAFTED, STRIDE))
    small = measured[f"verify {STRIDE} judged with evidence"] / 1e3
    large = measured[f"verify {DRAFTED} judged with evidence"] / 1e3
    row = (large - small) / (DRAFTED - STRIDE + (cuts - 1) * suffix)
    return Costs(
        target_prefill=measured["target prefill"] / 1e3,
        draft_prefill=measured["draft prefill"] / 1e3,
        target_step=measured[f"target step {batch}"] / 1e3 / batch,
        draft_step=measured[f"draft step {batch}"] / 1e3 / batch,
        extend=measured[f"chains {batch}"] / 1e3 / batch,
        verify=small - row * (STRIDE + suffix), verify_row=row, suffix=suffix, depth=CHAIN - 1,
    )  # fmt: skip
