"""`foundryrt run` of a parse bundle: one answer as it comes, or many together, in their order."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.jobs import Defaults, Job, Line, read
from parse_runtime.loading import UNLIKE, load
from parse_runtime.outcome import Outcome
from parse_runtime.progress import progress_bar
from parse_runtime.prompts import Prompts
from parse_runtime.roles import Sampling
from parse_runtime.rules import Rules
from parse_runtime.scheduler import Scheduler
from parse_runtime.serve import Serving, serve

__all__ = ["Options", "Serving", "run", "serve"]


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Prompts, and what differs from the settings of the capture."""

    prompt: str = field(default="", metadata=_help("the user's question"))
    input: str = field(default="", metadata=_help("JSON lines of prompts; - for stdin"))
    max_new_tokens: int = field(default=128, metadata=_help("longest answer in tokens"))
    temperature: float = field(default=0.0, metadata=_help("0 is greedy"))
    top_p: float = field(default=1.0, metadata=_help("share of the nucleus that is sampled"))
    seed: int = field(default=0, metadata=_help("of the sampling"))
    stop: str = field(default="", metadata=_help("text that ends an answer"))
    threshold: float | None = field(default=None, metadata=_help("least verdict that accepts"))
    selection: str | None = field(default=None, metadata=_help("first-failure or longest-accepted"))
    two_stage: bool | None = field(default=None, metadata=_help("judge the whole draft first"))
    cut_at: str | None = field(default=None, metadata=_help("stride, or sentence ends"))
    stride: int | None = field(default=None, metadata=_help("least tokens between cuts"))
    max_rounds: int | None = field(default=None, metadata=_help("drafts; 0: the target alone"))
    resume_tokens: int | None = field(default=None, metadata=_help("target tokens between rounds"))
    judge_prompt: str | None = field(default=None, metadata=_help("the question to the judge"))
    unlike_tokenizers: str = field(
        default="retokenize", metadata=_help("or refuse a pair whose tokenizers differ")
    )

    def __post_init__(self) -> None:
        if bool(self.prompt) == bool(self.input):
            raise UsageError("give either --prompt TEXT or --input FILE")
        if self.unlike_tokenizers not in UNLIKE:
            raise UsageError(f"unlike-tokenizers: one of {', '.join(UNLIKE)}")
        self.sampling()
        Rules().changed(self.changes())

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed)

    def changes(self) -> dict[str, Any]:
        """The settings of the capture that are to be others."""
        names = [field.name for field in dataclasses.fields(Rules)]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def run(session: Any, options: Options, json: bool) -> dict[str, object]:
    """Answer the prompts; texts, counts and times."""
    loaded = load(session, options.unlike_tokenizers)
    scheduler = Scheduler(loaded.target, loaded.draft)
    defaults = Defaults(
        options.max_new_tokens,
        options.sampling(),
        [options.stop] if options.stop else [],
        loaded.rules.changed(options.changes()),
    )
    if options.prompt:
        job = defaults.job(loaded.prompts, Line(prompt=options.prompt))
        return _one(scheduler, loaded.prompts, job, json)
    jobs = read(options.input, loaded.prompts, defaults, scheduler.max_len)
    return _many(scheduler, loaded.prompts, jobs, json)


def _one(scheduler: Scheduler, prompts: Prompts, job: Job, json: bool) -> dict[str, object]:
    """Text on stdout as it comes, then the counts."""

    def show(piece: str) -> None:
        if not json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    outcome = Outcome(job.request, prompts.text(job.stops), show)
    scheduler.submit(job.request, outcome)
    while scheduler.step():
        pass
    if outcome.error is not None:
        raise outcome.error
    if not json:
        print(f"\n\n{summary(outcome)}")
    return outcome.report()


def _many(
    scheduler: Scheduler, prompts: Prompts, jobs: Sequence[Job], json: bool
) -> dict[str, object]:
    """Answers on stdout in the order of their prompts, a progress bar on stderr.

    FoundryError, after all results, where some failed.
    """
    outcomes = [Outcome(job.request, prompts.text(job.stops)) for job in jobs]
    for outcome in outcomes:
        scheduler.submit(outcome.request, outcome)
    begin = time.perf_counter()
    shown = done = 0
    with progress_bar(len(outcomes), "answers") as advance:
        busy = True
        while busy:
            busy = scheduler.step()
            now = sum(outcome.done for outcome in outcomes)
            advance(now - done)
            done = now
            while not json and shown < len(outcomes) and outcomes[shown].done:
                _print(shown + 1, outcomes[shown])
                shown += 1
    seconds = time.perf_counter() - begin
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    tokens = sum(outcome.statistics.tokens for outcome in outcomes)
    report: dict[str, object] = {
        "results": [outcome.report() for outcome in outcomes],
        "requests": len(outcomes),
        "failed": len(failed),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
    if failed and json:
        from foundryrt.console import print_json

        print_json(report)
    if failed:
        raise FoundryError(f"{len(failed)} of {len(outcomes)} prompts failed: {failed[0].error}")
    if not json:
        print(f"{len(outcomes)} answers, {tokens} tokens, {tokens / seconds:.1f} tokens/s")
    return report


def _print(number: int, outcome: Outcome) -> None:
    shown = f"error: {outcome.error}" if outcome.error else f"{outcome.text}\n{summary(outcome)}"
    print(f"[{number}] {shown}\n")


def summary(outcome: Outcome) -> str:
    """Counts of one answer in a line."""
    counts = outcome.statistics
    report = counts.report()
    return (
        f"{report['tokens_per_second']:.1f} tokens/s, {counts.tokens} tokens in "
        f"{counts.seconds:.2f} s; drafted {counts.drafted}, accepted {counts.accepted}, "
        f"{report['tokens_per_advance']:.2f} tokens an advance; seconds: queue "
        f"{counts.queue_seconds:.2f}, prefill {counts.prefill_seconds:.2f}, draft "
        f"{counts.draft_seconds:.2f}, verify {counts.verify_seconds:.2f}, resume "
        f"{counts.resume_seconds:.2f}"
    )
