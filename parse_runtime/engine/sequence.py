"""One answer as a coroutine: draft it whole, judge its prefixes, keep the longest valid, resume.

It yields the passes that it needs and is sent their results; a scheduler runs those of many
sequences together. It touches no model itself.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from foundryrt.timeline import mark
from parse_runtime.engine.protocols import Verdict, Verification
from parse_runtime.engine.request import Listener, Request, Statistics
from parse_runtime.sampling.sampler import Sampler, TokenLogprobs


@dataclass(frozen=True)
class Prefill:
    """`model` is target or draft; answered by the token that follows, or `scored` by its logits."""

    model: str
    tokens: Sequence[int]
    start: int
    scored: bool = False


class Decode(NamedTuple):
    """The draft model's next token; answered by it. `last`: no other follows, whatever it is."""

    token: int
    position: int
    last: bool = False


class Extend(NamedTuple):
    """The target's next tokens; answered by a list of them, or `scored` by the next's logits.

    `last`: no other follows for now, whatever they are.
    """

    token: int
    position: int
    scored: bool = False
    last: bool = False


Call = Prefill | Decode | Extend | Verification
"""A verification is answered by a `Verdict`."""
Calls = Generator[Call, Any, Any]


@dataclass(eq=False)
class Answer:
    """The state of one answer; `calls` is its course.

    Where a course is given up, and the slot with it, another one goes on behind the tokens that are
    final: they are part of its first prefill, and a draft is written and judged again.
    """

    request: Request
    listener: Listener
    draft_len: int
    """Tokens that the draft model's cache holds."""
    statistics: Statistics = field(default_factory=Statistics)
    begun: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._sequence = list(self.request.prompt)
        self._limit = len(self._sequence) + self.request.max_new_tokens
        self._rounds = 0
        self._until = 0  # Where the target ends to decode before the next round.
        self._chooses = self.request.processing.needed
        self._sampler: Sampler | None = None
        self._forget()

    def _forget(self) -> None:
        self._rows = 0  # Tokens of the sequence whose keys and values the target holds.
        self._draft_rows: list[int] = []  # Tokens that the draft model holds.

    @property
    def tokens(self) -> Sequence[int]:
        """The prompt, and what is final of the answer."""
        return self._sequence

    @property
    def drafts(self) -> bool:
        """Whether the draft model is to write any of it."""
        return not self._chooses and self._rounds < self.request.rules.max_rounds

    @property
    def drafted(self) -> int:
        """About how many tokens the draft model has when it begins to write."""
        answered = len(self._sequence) - len(self.request.prompt)
        return max(len(self.request.draft_prompt) + answered, len(self._sequence))

    def calls(self) -> Calls:
        """Passes of the answer, to its end; returns why it ended, `stop` or `length`."""
        self._forget()
        if self._chooses:
            return (yield from self._chosen())
        since = time.perf_counter()
        following = yield Prefill("target", list(self._sequence), 0)
        self._rows = self._prefilled = len(self._sequence)
        self.statistics.prefill_seconds += time.perf_counter() - since
        rules = self.request.rules
        while self._rounds < rules.max_rounds:
            if (reason := (yield from self._resume(self._until, following))) is not None:
                return reason
            if (reason := (yield from self._round())) is not None:
                return reason
            self._rounds += 1
            self._until = min(len(self._sequence) + rules.resume_tokens, self._limit)
        return (yield from self._resume(self._limit, following))

    def _chosen(self) -> Calls:
        """The target alone, each token chosen from the logits of its pass; why it ended."""
        counts = self.statistics
        sampler = self._sampler = self._sampler or self.request.sampler()
        since = time.perf_counter()
        logits = yield Prefill("target", list(self._sequence), 0, scored=True)
        counts.prefill_seconds += time.perf_counter() - since
        since = time.perf_counter()
        reason = None
        while reason is None:
            token = sampler.choose(logits, len(self._sequence) - 1)
            if token in self.request.stops:
                reason = "stop"
                break
            sampler.advance(token)
            reason = self._append([token], sampler.logprobs(logits, token))
            if sampler.ended:
                reason = "stop"
            if reason is None:
                logits = yield Extend(token, len(self._sequence) - 1, scored=True)
                counts.advances += 1
        counts.advanced = max(0, counts.tokens - 1)
        counts.resume_seconds += time.perf_counter() - since
        return reason

    def _round(self) -> Generator[Call, Any, str | None]:
        """Draft, judge, crop; a reason where that completed the answer."""
        since = time.perf_counter()
        draft, ended = yield from self._draft()
        drafted = time.perf_counter()
        kept = (yield from self._judge(draft)) if draft else 0
        counts = self.statistics
        counts.draft_seconds += drafted - since
        counts.verify_seconds += time.perf_counter() - drafted
        counts.rounds += 1
        counts.drafted += len(draft)
        counts.accepted += kept
        # The target may use the draft model's rows behind this for drafts of its own.
        del self._draft_rows[len(self._draft_rows) - len(draft) + kept :]
        reason = self._append(draft[:kept])
        if reason is None and ended and 0 < kept == len(draft):
            return "stop"
        return reason

    def _draft(self) -> Generator[Call, Any, tuple[list[int], bool]]:
        """A complete answer of the draft model in the target's tokens; whether it ended it."""
        request, answer = self.request, self._sequence[len(self.request.prompt) :]
        translation, room = request.translation, self._limit - len(self._sequence)
        known = [*request.draft_prompt, *translation.to_draft(answer)]
        most = min(room, self.draft_len - len(known))
        if most < 1:
            return [], False
        start = min(_common(known, self._draft_rows), len(known) - 1)
        token = yield Prefill("draft", known[start:], start)
        complete = self.listener.draft_end() if translation.same else _never
        stops = translation.draft_stops if request.ends or not translation.same else frozenset()
        if translation.same:
            stops |= request.stops
        draft: list[int] = []
        ended = token in stops
        while not ended:
            draft.append(token)
            if len(draft) == most or complete(token):
                break
            last = len(draft) + 1 == most
            token = yield Decode(token, len(known) + len(draft) - 1, last)
            ended = token in stops
        # The last token was never put into the cache, unless a stop token followed it.
        self._draft_rows = [*known, *(draft if ended else draft[:-1])]
        written = translation.to_target(answer, draft)
        if translation.same:
            return written[:room], ended and len(written) <= room
        stop = _first(written, request.stops)
        if stop is not None:
            written, ended = written[:stop], True
        elif not request.ends:
            ended = False
        return written[:room], ended and len(written) <= room

    def _judge(self, draft: Sequence[int]) -> Generator[Call, Any, int]:
        """How much of the draft stays; the target then holds rows for what `held` says."""
        base, cuts = len(self._sequence), self.request.cuts(draft)
        rules, score = self.request.rules, self.request.score
        # Evidence of the first drafted token is in the row before it.
        start = min(self._rows, base - 1) if score else self._rows
        new = [*self._sequence[start:], *draft]
        lengths = [base + cut for cut in cuts]
        # With a score all cuts are judged at once: the whole draft's evidence depends on them.
        first = lengths[-1:] if rules.two_stage and not score else lengths
        wanted = Verification(
            new, start, first, self.request.suffix, rules.threshold, rules.selection_rule,
            score, base,
        )  # fmt: skip
        verdict: Verdict = yield wanted
        end, verdicts = base + len(draft), verdict.verdicts
        if len(first) < len(lengths) and not verdict.kept:
            # The keys and values of the shared prefix are there already.
            verdict = yield replace(wanted, shared_prefix=[], start=end, cuts=lengths[:-1])
            verdicts, first = verdict.verdicts + verdicts, lengths
        kept = max(verdict.kept - base, 0)
        self._rows = min(base + kept, wanted.held)
        judged = [length - base for length in first]
        self.statistics.verdicts.append(list(zip(judged, verdicts, strict=True)))
        if verdict.evidence is not None:
            self.statistics.evidence.append(verdict.evidence)
        return kept

    def _resume(self, until: int, following: int) -> Generator[Call, Any, str | None]:
        """The target decodes up to length `until`; a reason where the answer is done.

        Tokens beyond are dropped: where a round begins must not depend on how many come at once.
        `following` is what the prefill said to come next.
        """
        since = time.perf_counter()
        reason = None
        while reason is None and len(self._sequence) < until:
            length = len(self._sequence)
            if length == self._prefilled:
                tokens = [following]
            else:
                tokens = yield Extend(self._sequence[-1], length - 1, last=length + 1 == until)
                self._rows = length
                self.statistics.advances += 1
            tokens = tokens[: until - length]
            stop = _first(tokens, self.request.stops)
            before = self.statistics.tokens
            reason = self._append(tokens[:stop]) or ("stop" if stop is not None else None)
            if length > self._prefilled:
                self.statistics.advanced += self.statistics.tokens - before
        self.statistics.resume_seconds += time.perf_counter() - since
        return reason

    def _append(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> str | None:
        """Make tokens final, as far as the limit and the listener take them."""
        taken = list(tokens[: self._limit - len(self._sequence)])
        if taken:
            end = self.listener.tokens(taken, logprobs)
            del taken[len(taken) if end is None else end :]
            if not self.statistics.tokens and taken:
                self.statistics.first_token_seconds = time.perf_counter() - self.begun
                mark("first token")
            self._sequence += taken
            self.statistics.tokens += len(taken)
            if end is not None:
                return "stop"
        return "length" if len(self._sequence) == self._limit else None


def _never(token: int) -> bool:
    return False


def _first(tokens: Sequence[int], wanted: frozenset[int]) -> int | None:
    """The place of the first token that is wanted."""
    for place, token in enumerate(tokens):
        if token in wanted:
            return place
    return None


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
