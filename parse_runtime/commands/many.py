"""Many answers together: printed in the order of their prompts, none lost by another's fate."""

from __future__ import annotations

import time
from collections.abc import Sequence

from foundryrt.console import print_json, write
from foundryrt.errors import FoundryError, UsageError
from foundryrt.progress import progress_bar
from parse_runtime.commands.jobs import Job, Refused
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.prompts import Prompts
from parse_runtime.engine.request import Statistics
from parse_runtime.engine.scheduler import Scheduler


def answer_all(
    scheduler: Scheduler, prompts: Prompts, jobs: Sequence[Job | Refused], json: bool
) -> dict[str, object]:
    """Results on stdout in their order, a progress bar on stderr; with `json` only returned.

    Where some lines were refused or failed, an error follows all results. An interrupt cancels
    what is not done, and comes out again once the results are written.
    """
    outcomes = [
        Outcome(job.request, prompts.text(job.stops)) if isinstance(job, Job) else job
        for job in jobs
    ]
    answers = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    begin = time.perf_counter()
    interrupted = False
    shown = 0
    for answer in answers:
        scheduler.submit(answer.request, answer)

    def show() -> None:
        nonlocal shown
        while not json and shown < len(outcomes) and outcomes[shown].done:
            shown += 1
            write(f"[{shown}] {_text(outcomes[shown - 1])}\n\n")

    with progress_bar(len(outcomes), "answers") as progress:
        try:
            busy = True
            while busy:
                busy = scheduler.step()
                progress(len(outcomes) - scheduler.running - scheduler.waiting)
                show()
        except KeyboardInterrupt:
            interrupted = True
            _cancel(scheduler, answers)
            show()
    report = _report(outcomes, time.perf_counter() - begin)
    failures = [outcome.error for outcome in outcomes if outcome.error is not None]
    if json and (failures or interrupted):
        print_json(report)
    if interrupted:
        raise KeyboardInterrupt
    if failures:
        usage = all(isinstance(error, UsageError) for error in failures)
        kind = UsageError if usage else FoundryError
        raise kind(f"{len(failures)} of {len(outcomes)} prompts failed: {failures[0]}")
    if not json:
        write(
            f"{len(outcomes)} answers, {report['tokens']} tokens, "
            f"{report['tokens_per_second']:.1f} tokens/s\n"
        )
    return report


def _cancel(scheduler: Scheduler, answers: Sequence[Outcome]) -> None:
    for answer in answers:
        scheduler.cancel(answer)
        # The interrupt may have come while the scheduler had it in neither of its lists.
        if not answer.done:
            answer.finished("cancelled", Statistics())


def _report(outcomes: Sequence[Outcome | Refused], seconds: float) -> dict[str, object]:
    reports = [outcome.report() for outcome in outcomes]
    tokens = sum(report.get("tokens", 0) for report in reports)
    return {
        "results": reports,
        "requests": len(outcomes),
        "failed": sum(outcome.error is not None for outcome in outcomes),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }


def _text(outcome: Outcome | Refused) -> str:
    if outcome.error is not None:
        return f"error: {outcome.error}"
    assert isinstance(outcome, Outcome)
    return f"{outcome.text}\n{outcome.summary()}"
