"""Runs draft and target over questions, and labels the prefixes of the drafts.

A prefix is right where the target, resumed behind it, comes to a right answer; a whole draft where
it is right itself. What is right says the question's answer, or, where it has none, what the
target answers by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from parse_runtime.calibration.answers import Question, is_right
from parse_runtime.calibration.fit import Flags, Groups, Numbers
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.request import Request
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import Loaded
from parse_runtime.sampling.sampler import TokenLogprobs
from parse_runtime.signature.evidence import EVIDENCE, LOG_ODDS, Evidence

Bars = Callable[[int, str], AbstractContextManager[Callable[[int], object]]]
"""As `foundryrt.progress.progress_bar`."""
_DISAGREEMENTS = EVIDENCE.index("draft_disagreements")
_PREFIXES = 4
"""Prefixes of a draft, at most, that the target goes on from."""


@dataclass(eq=False)
class Taken(Outcome):
    """An outcome that keeps its tokens, too."""

    taken: list[int] = field(default_factory=list)

    def tokens(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> int | None:
        end = super().tokens(tokens, logprobs)
        self.taken += tokens[:end]
        return end


@dataclass(frozen=True)
class Draft:
    """Of one question: a draft with its evidence, and what is known of its prefixes."""

    cuts: list[int]
    evidence: Evidence
    right: dict[int, bool]
    """By cut; not every one is known."""
    target_right: bool


@dataclass(frozen=True)
class Samples:
    """Prefixes of drafts; `drafts` has all, these those that are labelled."""

    drafts: list[Draft]

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Draft and number of the cut of each sample."""
        return [
            (number, index)
            for number, draft in enumerate(self.drafts)
            for index, cut in enumerate(draft.cuts)
            if cut in draft.right
        ]

    @property
    def evidence(self) -> Numbers:
        """[samples, EVIDENCE]."""
        found = [self.drafts[draft].evidence[index] for draft, index in self.rows]
        return np.asarray(found, np.float64).reshape(-1, len(EVIDENCE))

    @property
    def right(self) -> Flags:
        """[samples]."""
        found = [self.drafts[d].right[self.drafts[d].cuts[index]] for d, index in self.rows]
        return np.asarray(found, np.bool_)

    @property
    def groups(self) -> Groups:
        """[samples], the number of the draft."""
        return np.asarray([draft for draft, _ in self.rows], np.int64)

    @property
    def whole(self) -> Flags:
        """[samples], whether it is a whole draft."""
        found = [index == len(self.drafts[draft].cuts) - 1 for draft, index in self.rows]
        return np.asarray(found, np.bool_)

    @property
    def telling(self) -> Flags:
        """[samples], whether the label says something of the sample.

        Where the target does not come to a right answer by itself, that it does not come to one
        behind a prefix is no fault of the prefix. A whole draft's label is its own.
        """
        return self.whole | self.right | self.target_right

    @property
    def target_right(self) -> Flags:
        """[samples], whether the target by itself comes to a right answer."""
        return np.asarray([self.drafts[draft].target_right for draft, _ in self.rows], np.bool_)

    def some(self, numbers: NDArray[np.int64]) -> Samples:
        """The samples of some drafts."""
        return Samples([self.drafts[number] for number in numbers])


def collect(
    loaded: Loaded, questions: Sequence[Question], rules: Rules, max_new_tokens: int,
    bars: Bars,
) -> Samples:  # fmt: skip
    """Drafts of the questions that got any; greedy.

    UsageError where a question does not fit the bundle.
    """
    run = _Run(loaded, bars)
    rules = replace(rules, max_rounds=1, threshold=0.0, two_stage=False)
    alone = replace(rules, max_rounds=0)
    plain = [
        replace(
            loaded.prompts.request(question.prompt, max_new_tokens, Sampling(), rules),
            score=LOG_ODDS,
        )
        for question in questions
    ]
    own = run([replace(request, rules=alone) for request in plain], "target alone")
    drafts = run(plain, "drafts")
    going_on: list[tuple[int, int]] = []
    for number, drafted in enumerate(drafts):
        if drafted.statistics.evidence:
            going_on += [(number, cut) for cut in _resumed(drafted)]
    resumed = [_behind(plain[n], drafts[n], cut, alone) for n, cut in going_on]
    behind = run(resumed, "target behind prefixes")
    reached = dict(zip(going_on, behind, strict=True))
    found = []
    for number, (question, drafted) in enumerate(zip(questions, drafts, strict=True)):
        if drafted.statistics.evidence:
            texts = {
                cut: loaded.prompts.target.tokenizer.decode(drafted.taken[:cut] + one.taken)
                for (n, cut), one in reached.items()
                if n == number
            }
            found.append(_draft(question, drafted, own[number].text, texts))
    return Samples(found)


def _resumed(drafted: Taken) -> list[int]:
    """The cuts that the target has to go on from, to know all that are to be known.

    Where a prefix has no disagreement that a shorter one has not, both go on alike: the last of
    such cuts says it for all. What has none goes on as the target does by itself.
    """
    evidence = drafted.statistics.evidence[0][:, _DISAGREEMENTS]
    cuts = [cut for cut, _ in drafted.statistics.verdicts[0]]
    needed = [
        cuts[i]
        for i in range(len(cuts) - 1)
        if evidence[i] and (i == len(cuts) - 2 or evidence[i + 1] != evidence[i])
    ]
    chosen = np.linspace(0, len(needed) - 1, min(_PREFIXES, len(needed))).round().astype(int)
    return [needed[i] for i in dict.fromkeys(chosen.tolist())]


def _behind(request: Request, drafted: Taken, cut: int, rules: Rules) -> Request:
    """The target alone, behind the first `cut` tokens of a draft."""
    prompt = [*request.prompt, *drafted.taken[:cut]]
    left = request.max_new_tokens - cut
    return replace(request, prompt=prompt, max_new_tokens=left, rules=rules)


def _draft(question: Question, drafted: Taken, own: str, texts: dict[int, str]) -> Draft:
    """`own` is the target's text, `texts` those behind prefixes of the draft."""
    evidence = drafted.statistics.evidence[0]
    cuts = [cut for cut, _ in drafted.statistics.verdicts[0]]
    answer = question.answer
    right = {cut: is_right(text, answer, own) for cut, text in texts.items()}
    for i in reversed(range(len(cuts) - 1)):
        if not evidence[i, _DISAGREEMENTS]:
            right[cuts[i]] = is_right(own, answer, own)
        elif (
            i < len(cuts) - 2
            and cuts[i + 1] in right
            and evidence[i + 1, _DISAGREEMENTS] == evidence[i, _DISAGREEMENTS]
        ):
            right.setdefault(cuts[i], right[cuts[i + 1]])
    right[cuts[-1]] = is_right(drafted.text, answer, own)
    return Draft(cuts, evidence, right, is_right(own, answer, own))


class _Run:
    """Answers requests, as many at a time as the bundle has slots."""

    def __init__(self, loaded: Loaded, bars: Bars) -> None:
        self._loaded, self._bars = loaded, bars

    def __call__(self, requests: Sequence[Request], what: str) -> list[Taken]:
        scheduler = Scheduler(self._loaded.target, self._loaded.draft)
        outcomes = [Taken(request, self._loaded.prompts.text([])) for request in requests]
        for outcome in outcomes:
            scheduler.submit(outcome.request, outcome)
        with self._bars(len(outcomes), what) as progress:
            while scheduler.step():
                progress(len(outcomes) - scheduler.running - scheduler.waiting)
        if failed := [outcome.error for outcome in outcomes if outcome.error is not None]:
            raise failed[0]
        return outcomes
