"""Draft a whole answer, judge its prefixes, keep the longest valid one, resume with the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from foundryrt.errors import UsageError
from parse_runtime.roles import Decoder, Rules, Statistics, Target
from parse_runtime.sampling import Sampler

Emit = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Engine:
    """One sequence at a time over two decoders, which may be of one model."""

    target: Target
    draft: Decoder
    rules: Rules
    sampler: Sampler

    def __post_init__(self) -> None:
        if self.target.tokenizer != self.draft.tokenizer:
            raise UsageError(
                "the draft model's tokenizer is not the target's: token ids differ; "
                "take a draft model of the same family"
            )

    def generate(self, prompt: Sequence[int], max_new_tokens: int, emit: Emit) -> Statistics:
        """Answer `prompt`; `emit` gets tokens as they become final, never the stop token.

        UsageError where prompt and answer do not fit the caches.
        """
        limit = min(self.target.max_len, self.draft.max_len)
        if not prompt:
            raise UsageError("the prompt has no tokens")
        if max_new_tokens < 1:
            raise UsageError(f"max-new-tokens {max_new_tokens}: at least 1 is needed")
        if len(prompt) + max_new_tokens > limit:
            raise UsageError(
                f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones exceed the "
                f"{limit} of the bundle: shorten one, or capture with a larger --max-len"
            )
        generation = _Generation(self, emit, list(prompt), len(prompt) + max_new_tokens)
        begin = time.perf_counter()
        generation.run()
        generation.statistics.seconds = time.perf_counter() - begin
        return generation.statistics


@dataclass
class _Generation:
    engine: Engine
    emit: Emit
    sequence: list[int]
    limit: int
    target_rows: int = 0
    """Tokens of the sequence whose keys and values the target holds."""
    draft_rows: int = 0
    statistics: Statistics = field(default_factory=Statistics)

    def run(self) -> None:
        with self._timed("prefill_seconds"):
            self.engine.target.prefill(self.sequence, 0)
            self.target_rows = len(self.sequence)
        rules = self.engine.rules
        for number in range(rules.max_rounds):
            if self._round():
                return
            last = number + 1 == rules.max_rounds
            until = self.limit if last else len(self.sequence) + rules.resume_tokens
            if self._resume(min(until, self.limit)):
                return
        self._resume(self.limit)

    def _round(self) -> bool:
        """Draft, judge, crop; true where the draft was accepted as the complete answer."""
        with self._timed("draft_seconds"):
            draft, stopped = self._write_draft()
        with self._timed("verify_seconds"):
            kept = self._judge(draft)
        self.statistics.rounds += 1
        self.statistics.drafted += len(draft)
        self.statistics.accepted += kept
        self._append(draft[:kept])
        self.target_rows = min(self.target_rows, len(self.sequence))
        self.draft_rows = min(self.draft_rows, len(self.sequence))
        return 0 < kept == len(draft) and (stopped or len(self.sequence) == self.limit)

    def _write_draft(self) -> tuple[list[int], bool]:
        """A complete answer of the draft model, and whether it ended it by itself."""
        model, base = self.engine.draft, len(self.sequence)
        start = min(self.draft_rows, base - 1)
        prediction = model.prefill(self.sequence[start:], start)
        self.draft_rows = base
        draft: list[int] = []
        while base + len(draft) < self.limit:
            if draft:
                prediction = model.decode(draft[-1], self.draft_rows)
                self.draft_rows += 1
            token = self.engine.sampler.pick(prediction)
            if token in self.engine.rules.stops:
                return draft, True
            draft.append(token)
        return draft, False

    def _judge(self, draft: Sequence[int]) -> int:
        """How much of the draft stays; the target's cache then holds all of it."""
        if not draft:
            return 0
        rules, base = self.engine.rules, len(self.sequence)
        cuts = rules.cuts(draft)
        first = cuts[-1:] if rules.two_stage else cuts
        trunk = [*self.sequence[self.target_rows :], *draft]
        verdicts = self._verdicts(trunk, self.target_rows, [base + cut for cut in first])
        self.target_rows = base + len(draft)
        if rules.two_stage and not verdicts[-1] >= rules.threshold and len(cuts) > 1:
            # The trunk's keys and values are there already.
            earlier = self._verdicts([], self.target_rows, [base + cut for cut in cuts[:-1]])
            verdicts, first = earlier + verdicts, cuts
        self.statistics.verdicts.append(list(zip(first, verdicts, strict=True)))
        return rules.select(first, verdicts, rules.threshold)

    def _verdicts(self, trunk: Sequence[int], start: int, cuts: Sequence[int]) -> list[float]:
        return self.engine.target.verify(trunk, start, self.engine.rules.suffix, cuts)

    def _resume(self, until: int) -> bool:
        """The target decodes up to length `until`; true where the answer is complete."""
        with self._timed("resume_seconds"):
            while len(self.sequence) < until:
                position = len(self.sequence) - 1
                prediction = self.engine.target.decode(self.sequence[-1], position)
                self.target_rows = position + 1
                token = self.engine.sampler.pick(prediction)
                if token in self.engine.rules.stops:
                    return True
                self._append([token])
        return len(self.sequence) == self.limit

    def _append(self, tokens: Sequence[int]) -> None:
        if tokens:
            self.sequence += tokens
            self.statistics.tokens += len(tokens)
            self.emit(tokens)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        elapsed = time.perf_counter() - begin
        setattr(self.statistics, name, getattr(self.statistics, name) + elapsed)
