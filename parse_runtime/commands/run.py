"""`foundryrt run` of a parse bundle: one answer as it comes, or many together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from foundryrt.console import write
from foundryrt.errors import UsageError
from parse_runtime.commands.jobs import Defaults, Job, Line, read
from parse_runtime.commands.many import answer_all
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.prompts import Prompts
from parse_runtime.engine.protocols import Sampling
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import UNLIKE, load
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
    return answer_all(scheduler, loaded.prompts, jobs, json)


def _one(scheduler: Scheduler, prompts: Prompts, job: Job, json: bool) -> dict[str, object]:
    """Text on stdout as it comes, then the counts."""
    outcome = Outcome(job.request, prompts.text(job.stops))
    if not json:
        outcome.show = write
    scheduler.submit(job.request, outcome)
    while scheduler.step():
        pass
    if outcome.error is not None:
        raise outcome.error
    if not json:
        write(f"\n\n{outcome.summary()}\n")
    return outcome.report()
