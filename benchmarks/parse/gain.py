"""Throughput of PARSE over the target alone, by given acceptance.

The engine's own scheduler drives the passes; all of them run. Given are what they would have
found: a verification keeps the last cut within a fraction of the draft, and, in the EAGLE-3
profile, an extend pass accepts a fixed number of tokens. Weights are random, so found they cannot
be.
"""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.parse.measure import CapturedSession, wall_seconds
from benchmarks.parse.models import Model, random_head
from foundryc.ranks import Ranks
from parse_runtime.capture.parameters import Register
from parse_runtime.capture.passes import Passes
from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.protocols import Verdict, Verification
from parse_runtime.engine.request import Request, Statistics
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.evidence import EVIDENCE, Score
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.sizes import PassSizes, SharedSize, prompts_of
from parse_runtime.signature.tree import DraftTree
from parse_runtime.text.translation import SameTokens


@dataclass(frozen=True)
class Profile:
    """Tokens of prompt and answer; cuts of a draft; what is accepted, and by how many sequences at
    once."""

    prompt: int = 256
    answer: int = 256
    questions: tuple[int, ...] = (32, 0)
    """Tokens of the judge's question. None is asked where a pair's calibration found that evidence
    of the drafted tokens says as much; the passes then gather it."""
    cuts: int = 8
    acceptances: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    depth: int = 4
    """Drafted tokens of an extend pass,"""
    accepted: int = 3
    """of which so many come out, the bonus token included."""
    shared: tuple[int, ...] = (2, 4, 8, 16, 32)
    """How many prompts or drafts passes have room for, beside those of one."""
    rounds: tuple[int, ...] = (1,)
    """Drafts of an answer, at most,"""
    between: int = 16
    """with so many tokens of the target between two."""
    later: tuple[int, int] = (64, 2)
    """Tokens and cuts of verify passes that drafts behind the first are small enough for."""


class GivenTarget(GraphTarget):
    """A target whose passes run, but whose findings are given."""

    profile: Profile
    acceptance = 0.0

    def verify(self, slot: int, verification: Verification) -> Verdict:
        return self._given(verification, super().verify(slot, verification))

    def verify_pass(self, wanted: Mapping[int, Verification]) -> list[Verdict]:
        return list(map(self._given, wanted.values(), super().verify_pass(wanted)))

    def _given(self, verification: Verification, found: Verdict) -> Verdict:
        drafted = max(verification.cuts) - verification.drafted
        most = verification.drafted + self.acceptance * drafted
        kept = max((cut for cut in verification.cuts if cut <= most), default=0)
        return Verdict(kept, found.verdicts)

    def extend(self, batch: Batch) -> list[list[int]]:
        found = super().extend(batch)
        if not self._extend:
            return found
        return [(some + some[-1:] * self.profile.accepted)[: self.profile.accepted]
                for some in found]  # fmt: skip


class Listener:
    """Of an answer that nobody reads."""

    def tokens(self, tokens: Sequence[int], logprobs: Sequence[object] = ()) -> None:
        return None

    def draft_end(self) -> Callable[[int], bool]:
        return lambda token: False

    def finished(self, reason: str, statistics: Statistics) -> None:
        return None

    def failed(self, error: Exception) -> None:
        raise error


STAGES = "prefill", "draft", "verify", "resume"


@dataclass(eq=False)
class _Timed(Listener):
    """Adds the seconds of its answer's stages to `stages`."""

    stages: dict[str, float]

    def finished(self, reason: str, statistics: Statistics) -> None:
        for stage in STAGES:
            self.stages[stage] += getattr(statistics, f"{stage}_seconds")


def gains(target: Model, draft: Model, device: str, profile: Profile) -> Iterator[dict[str, Any]]:
    """Rows: batch, scheme, question, acceptance, tokens/s, the gain over the target alone, and
    `seconds` of an answer's stages, of each the mean; what it waits for is in them."""
    alone: dict[int, float] = {}
    profiles = [(eagle, question) for eagle in (False, True) for question in profile.questions]
    for eagle, question in profiles:
        engines = _open(target, draft, device, profile, eagle, question)
        yield from gains_of(*engines, question, alone, eagle)
        del engines
        gc.collect()  # Graphs cannot be freed while others are captured.


def gains_of(
    target: GivenTarget, draft: GraphDecoder, question: int, alone: dict[int, float],
    eagle: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """As `gains`, of passes that are there; `alone` has the target's own tokens/s by batch.

    Where it has none, they are those of the first row of the batch, without speculation.
    """
    profile = target.profile
    for batch in profile.batches:
        runs = [(None, 1), *itertools.product(profile.acceptances, profile.rounds)]
        for i, (acceptance, rounds) in enumerate(runs):
            # All acceptances run the same passes, if drafts behind the first are as long.
            warm = i > 1 and rounds == 1
            found = _rate(target, draft, batch, acceptance, question, rounds, warm)
            rate = found["tokens_per_second"]
            yield {
                "batch": batch,
                "eagle3_profile": f"{profile.accepted} tokens a pass" if eagle else "none",
                "scheme": "target" if acceptance is None else "parse",
                "question": question,
                "rounds": rounds,
                "acceptance": -1.0 if acceptance is None else acceptance,
                **found,
                "gain": rate / alone.setdefault(batch, rate),
            }


def _open(
    target: Model, draft: Model, device: str, profile: Profile, speculates: bool, question: int
) -> tuple[GivenTarget, GraphDecoder]:
    config = target[0]
    head = random_head(config, device, min(32000, config.vocab)) if speculates else None
    session = CapturedSession(device)
    passes = passes_of(target, draft, session.register, profile, question, head)
    for one in passes:
        session.add(one)
    given = GivenTarget(session, passes[0].signature)
    given.profile = profile
    return given, GraphDecoder(session, passes[1].signature)


def sizes_of(profile: Profile, question: int, speculates: bool = False) -> list[PassSizes]:
    """Of the target's passes, and of the draft model's."""
    slots, length = max(profile.batches), profile.prompt + profile.answer + profile.depth + 1
    many = [count for count in profile.shared if count <= slots]
    prefill = tuple(count * profile.prompt for count in (1, *many))
    sizes: dict[str, Any] = {
        "max_len": length, "slots": slots, "prefill": prefill, "decode": profile.batches,
        "prompts": tuple(prompts_of(rows, slots) for rows in prefill),
    }  # fmt: skip
    tokens, cuts = profile.later
    drafts = ((tokens, cuts), (profile.answer, profile.cuts))
    verify = tuple((some + most * question, most) for some, most in drafts)
    tree = DraftTree(profile.depth) if speculates else None
    scored = () if question else (tokens, profile.answer)
    shared = sorted(SharedSize(c * rows, most, c) for rows, most in verify for c in many)
    target = PassSizes(**sizes, verify=verify, shared=tuple(shared), scored=scored, tree=tree)
    return [target, PassSizes(**sizes)]


def passes_of(
    target: Model, draft: Model, register: Register, profile: Profile, question: int,
    head: Model | None = None, ranks: Ranks | None = None,
) -> list[Passes]:  # fmt: skip
    """The target's passes, with `ranks` those of one, and the draft model's."""
    sizes, drafting = sizes_of(profile, question, head is not None)
    said = None
    if sizes.scored:
        kept = ModelSignature("draft", sizes).likelihood
        said = register(kept.name, torch.tensor(kept.initial), kept.role)
    return [
        Passes(
            "target", *target, sizes, register, head=head, run_ahead=True, draft_likelihood=said,
            asked=Settings.evidence_share, ranks=ranks,
        ),
        Passes("draft", *draft, drafting, register, run_ahead=True, likelihood=said),
    ]  # fmt: skip


def _rate(
    target: GivenTarget, draft: GraphDecoder, batch: int, acceptance: float | None, question: int,
    rounds: int, warm: bool,
) -> dict[str, Any]:  # fmt: skip
    """Of `batch` answers that begin together; acceptance None: by the target alone."""
    profile = target.profile
    stride = profile.answer // profile.cuts
    most = 0 if acceptance is None else rounds
    rules = Rules(max_rounds=most, stride=stride, resume_tokens=profile.between)
    score = None if question else Score((0.0, *(1.0 for _ in EVIDENCE[1:])))

    def answers(kept: float, stages: dict[str, float]) -> None:
        target.acceptance = kept
        scheduler = Scheduler(target, draft)
        for i in range(batch):
            prompt = list(range(i, i + profile.prompt))
            scheduler.submit(
                Request(
                    prompt=prompt, draft_prompt=prompt, suffix=list(range(question)), score=score,
                    stops=frozenset(), translation=SameTokens(frozenset()),
                    cuts=lambda drafted: [*range(stride, len(drafted), stride), len(drafted)],
                    max_new_tokens=profile.answer, rules=rules, sampling=Sampling(),
                ),
                _Timed(stages),
            )  # fmt: skip
        while scheduler.step():
            pass

    with torch.inference_mode():
        if not warm:
            answers(1.0 if rounds == 1 else acceptance or 0.0, Counter())
        stages: dict[str, float] = Counter()
        seconds = wall_seconds(lambda: answers(acceptance or 0.0, stages))
    return {
        "tokens_per_second": batch * profile.answer / seconds,
        "seconds": {stage: stages[stage] / batch for stage in STAGES},
    }
