"""Problems through the engine's own scheduler."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.arith import task
from benchmarks.arith.bundles import MAX_NEW_TOKENS
from benchmarks.arith.vocabulary import ids, tokenizer
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.calibration import Calibration
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.protocols import Verdict
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import Loaded
from parse_runtime.sampling.processing import Processing


@dataclass(frozen=True)
class Problem:
    """A question, its only solution and the number asked for."""

    question: str
    solution: str
    number: int


def draw(count: int, seed: int) -> list[Problem]:
    """Problems of a seed; training uses others by far (a seed draws from 10^30)."""
    problems = task.draw(count, torch.Generator().manual_seed(seed))
    decode, end = tokenizer().decode, ids("<|end|>")[0]
    prompts, lengths = task.prompts(problems)
    rows = task.answers(problems, problems.values()).tolist()
    return [
        Problem(decode(prompt[1 : length - 1]), decode(row[: row.index(end)]), number)
        for prompt, length, row, number in zip(
            prompts.tolist(), lengths.tolist(), rows, problems.final().tolist(), strict=True
        )
    ]


@dataclass(frozen=True)
class Run:
    """Outcomes of problems, in order, and the seconds that all took together."""

    outcomes: list[Outcome]
    seconds: float

    @property
    def tokens(self) -> int:
        return sum(outcome.statistics.tokens for outcome in self.outcomes)


def answer(
    loaded: Loaded, problems: Sequence[Problem], concurrent: int, changes: dict[str, Any],
    processing: Processing | None = None,
) -> Run:  # fmt: skip
    """Greedy answers, `concurrent` at a time, under the bundle's rules with `changes`."""
    rules = loaded.rules.changed(changes)
    outcomes = [
        Outcome(
            loaded.prompts.request(
                problem.question, MAX_NEW_TOKENS, Sampling(), rules, processing=processing
            ),
            loaded.prompts.text([]),
        )
        for problem in problems
    ]
    return Run(outcomes, seconds(loaded, outcomes, concurrent))


def seconds(loaded: Loaded, outcomes: Sequence[Outcome], concurrent: int) -> float:
    """How long all take, `concurrent` at a time; the error of one that failed."""
    scheduler, coming, busy = Scheduler(loaded.target, loaded.draft), deque(outcomes), True
    begin = time.perf_counter()
    while busy or coming:
        while coming and scheduler.running + scheduler.waiting < concurrent:
            one = coming.popleft()
            scheduler.submit(one.request, one)
        busy = scheduler.step()
    took = time.perf_counter() - begin
    if failed := [outcome.error for outcome in outcomes if outcome.error]:
        raise failed[0]
    return took


def calibrated(loaded: Loaded, found: Calibration) -> Loaded:
    """Even where verdicts do not separate: what that costs is to be seen."""
    rules = {**found.rules, "max_rounds": loaded.rules.max_rounds}
    prompts = replace(loaded.prompts, calibration=found)
    return replace(loaded, prompts=prompts, rules=loaded.rules.changed(rules))


class Rejecting:
    """A target whose verifications run, and then keep nothing: what rejection costs at most."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def verify(self, *arguments: Any) -> Verdict:
        return Verdict(0, self._target.verify(*arguments).verdicts)

    def verify_pass(self, *arguments: Any) -> list[Verdict]:
        return [Verdict(0, found.verdicts) for found in self._target.verify_pass(*arguments)]
