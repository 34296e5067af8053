"""`foundryrt run` of a parse bundle: one answer as it comes, or many together."""

from __future__ import annotations

from dataclasses import dataclass

from foundryrt.bundle.reader import Bundle
from foundryrt.console import write
from foundryrt.errors import UsageError
from foundryrt.options import option
from foundryrt.protocols import SessionLike
from parse_runtime.capture.settings import Settings as Capture
from parse_runtime.commands.calibrate import Calibrating, calibrate
from parse_runtime.commands.jobs import Defaults, Job, Line, read
from parse_runtime.commands.many import answer_all
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.memory import SHARING, SHARING_OPTION
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.prompts import Prompts
from parse_runtime.engine.rules import BundleRules, RuleChanges, Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import UNLIKE, UNLIKE_OPTION, load
from parse_runtime.graphs.room import Room
from parse_runtime.serve import Serving, prepare_serving, serve

__all__ = [
    "Calibrating", "Capture", "Options", "Serving", "calibrate", "prepare_serving", "rows", "run",
    "serve",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Prompts, and how their answers are sampled."""

    prompt: str = option("", "the user's question; without a chat template, text to be continued")
    input: str = option("", "JSON lines of prompts; - for stdin")
    max_new_tokens: int = option(128, "longest answer in tokens")
    temperature: float = option(0.0, "0 is greedy")
    top_p: float = option(1.0, "share of the nucleus that is sampled")
    seed: int = option(0, "of the sampling")
    stop: str = option("", "text that ends an answer")
    unlike_tokenizers: str = option(*UNLIKE_OPTION)
    share_prefixes: str = option(*SHARING_OPTION)


@dataclass(frozen=True, kw_only=True)
class Options(RuleChanges, Room, _Asked):
    """Prompts, and what differs from the rules of the capture."""

    def __post_init__(self) -> None:
        if bool(self.prompt) == bool(self.input):
            raise UsageError("give either --prompt TEXT or --input FILE")
        self.check_room()
        if self.unlike_tokenizers not in UNLIKE:
            raise UsageError(f"unlike-tokenizers: one of {', '.join(UNLIKE)}")
        if self.share_prefixes not in SHARING:
            raise UsageError(f"share-prefixes: one of {', '.join(SHARING)}")
        self.sampling()
        Rules().changed(self.changes())

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed)


def rows(bundle: Bundle, options: Room) -> dict[str, int]:
    """Of the caches, which the session is to have."""
    return options.rows(bundle)


def run(session: SessionLike, options: Options, json: bool) -> dict[str, object]:
    """Answer the prompts; texts, counts and times."""
    changes = options.changes()
    loaded = load(session, options.unlike_tokenizers, changes.get("calibrated", True))
    scheduler = Scheduler(loaded.target, loaded.draft, sharing=options.share_prefixes)
    defaults = Defaults(
        options.max_new_tokens,
        options.sampling(),
        [options.stop] if options.stop else [],
        BundleRules(loaded.captured.changed(changes), loaded.rules.changed(changes)),
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
