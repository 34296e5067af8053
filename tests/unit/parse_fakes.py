"""Models that are functions of what their slots hold, and check that it was put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.engine.judge import SELECTIONS, stride_cuts
from parse_runtime.engine.packing import VERIFY, Due, holding, shared_by
from parse_runtime.engine.protocols import Logits, Prefilled, Verdict, Verification
from parse_runtime.engine.request import Request, Statistics
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.engine.tables import Tables
from parse_runtime.sampling.processing import Processing
from parse_runtime.sampling.sampler import TokenLogprobs
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.sizes import BLOCK, MixedSize, PassSizes, PrefillSize, SharedSize
from parse_runtime.text.translation import SameTokens

VOCABULARY = 100
STOP, PROMPT, SUFFIX = 0, [90, 91, 92], [70, 71]
Following = list[int] | NDArray[np.float32]
Answer = Callable[[list[int], Sampling], int]


def scripted(answer: Sequence[int]) -> Answer:
    """Says `answer[i]` after i tokens that follow PROMPT."""

    def say(held: list[int], sampling: Sampling) -> int:
        index = len(held) - len(PROMPT)
        return answer[index] if index < len(answer) else STOP

    return say


def mixing(salt: int, stop_every: int = 41) -> Answer:
    """Says a token that depends on all of the sequence and the seed."""

    def say(held: list[int], sampling: Sampling) -> int:
        value = hash((salt, sampling, tuple(held)))
        return STOP if value % stop_every == 0 else 1 + value % 50

    return say


@dataclass
class Fake:
    """`say` and `judge` make it a model; `several` the tokens of one extend pass."""

    say: Answer
    judge: Callable[[list[int]], float] = lambda held: 0.0
    several: int = 1
    slots: int = 1
    max_len: int = 64
    prefills: tuple[PrefillSize, ...] = (PrefillSize(16, 1), PrefillSize(96, 3))
    kv_tokens: int | None = 0
    reach: int = 0
    proposes: int = 0
    drafter: Fake | None = None
    """Whose rows it proposes tokens by."""
    rows: dict[int, list[int]] = field(default_factory=dict)
    passes: list[list[int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    """Slots of each prefill pass."""
    launched: int = 0
    shared: tuple[SharedSize, ...] = ()
    """Passes that verifications share."""
    judged: list[list[int]] = field(default_factory=list)
    """Slots of each of these."""

    def __post_init__(self) -> None:
        sizes = PassSizes(max_len=self.max_len, slots=self.slots, kv_tokens=self.kv_tokens)
        self.tables = Tables(ModelSignature("fake", sizes))
        self.reach = self.reach or self.several
        self.blocks = np.full((sizes.fixed_blocks + sizes.pool_blocks, BLOCK), -1)
        """What each block's rows were computed from: the hash of the beginning."""
        self.left: set[int] = set()
        """Slots whose `rows` are those of an answer that has left."""

    def take_over(self, before: Fake) -> None:
        """Have its caches, and leave it none."""
        self.tables, self.blocks = before.tables, before.blocks
        before.rows, self.rows = {}, before.rows

    def hold(self, slot: int, tokens: Sequence[int]) -> None:
        self.left.discard(slot)
        self.rows[slot] = list(tokens)

    def forget(self, slot: int) -> None:
        self.tables.release(slot)
        self.left.add(slot)

    def _put(self, slot: int, tokens: Sequence[int], start: int) -> list[int]:
        self.launched += 1
        if slot in self.left:
            self.hold(slot, [])
        held = self.rows.setdefault(slot, [])
        assert 0 <= slot < self.slots and 0 <= start <= len(held) and start + len(tokens) <= 64
        held[start:] = tokens
        for row in range(len(held)):
            block, known = self.tables.values[slot, row // BLOCK], hash(tuple(held[: row + 1]))
            assert block or self.kv_tokens is None
            if row >= start:
                self.blocks[block, row % BLOCK] = known
            assert self.blocks[block, row % BLOCK] == known
        return held

    def ready(self, chunks: Sequence[Chunk]) -> bool:
        return True

    def ready_to_verify(self, wanted: Mapping[int, Verification]) -> bool:
        return True

    def overlaps(self, chunks: Sequence[Chunk]) -> bool:
        return True

    def begin_prefill(self, chunks: Sequence[Chunk]) -> Prefilled:
        result = self._prefilled(chunks)
        launched = self.launched

        def wait() -> list[int | Logits | None]:
            assert self.launched == launched
            return result

        return wait

    mixed: tuple[MixedSize, ...] = ()

    def mixes(self, chunks: Sequence[Chunk], count: int) -> bool:
        return False

    def begin_mixed(self, chunks: Sequence[Chunk], batch: Batch) -> Prefilled:
        raise NotImplementedError

    def _prefilled(self, chunks: Sequence[Chunk]) -> list[int | Logits | None]:
        assert len({chunk.slot for chunk in chunks}) == len(chunks) > 0
        holding([len(chunk.tokens) for chunk in chunks], self.prefills)
        self.prompts.append([chunk.slot for chunk in chunks])
        result: list[int | Logits | None] = []
        for chunk in chunks:
            assert chunk.tokens
            held = self._put(chunk.slot, chunk.tokens, chunk.start)
            if chunk.following is not None:
                result.append(None)
            else:
                scored = chunk.scored
                said = self.logits(chunk.slot) if scored else self.say(held, chunk.sampling)
                result.append(said)
        return result

    def decode(self, batch: Batch) -> list[int]:
        assert len(set(batch.slots)) == len(batch) > 0
        self.batches.append(len(batch))
        return [
            self.say(self._put(slot, [token], position), sampling)
            for slot, token, position, sampling in zip(
                batch.slots, batch.tokens, batch.positions, batch.samplings, strict=True
            )
        ]

    def logits(self, slot: int) -> NDArray[np.float32]:
        """What `say` says is likeliest after what the slot holds."""
        held = self.rows[slot]
        found = np.random.default_rng(abs(hash(tuple(held)))).normal(size=VOCABULARY)
        found[self.say(held, Sampling())] += 9
        return found.astype(np.float32)

    def extend(self, batch: Batch) -> list[Following]:
        if self.drafter:
            for slot, position in zip(batch.slots, batch.positions, strict=True):
                assert min(position + self.proposes, 64) <= self.drafter.tables.rows[slot]
        found = [[token] for token in self.decode(batch)]
        for slot, new, sampling in zip(batch.slots, found, batch.samplings, strict=True):
            if slot in batch.scored:
                continue
            while len(new) < self.several and len(self.rows[slot]) < self.max_len:
                new.append(self.say(self._put(slot, new[-1:], len(self.rows[slot])), sampling))
        return [
            self.logits(slot) if slot in batch.scored else new
            for slot, new in zip(batch.slots, found, strict=True)
        ]

    def shares(self, wanted: Verification) -> list[SharedSize]:
        return [s for s in self.shared if wanted.rows <= s.rows and len(wanted.cuts) <= s.cuts]

    def verify_pass(self, wanted: Mapping[int, Verification]) -> list[Verdict]:
        assert len(wanted) > 1
        shared_by({slot: Due(VERIFY, v.rows, self.shares(v)) for slot, v in wanted.items()})
        self.judged.append(list(wanted))
        return [self.verify(slot, one) for slot, one in wanted.items()]

    def verify(self, slot: int, wanted: Verification) -> Verdict:
        assert list(wanted.suffix) in (SUFFIX, [])
        count = wanted.held - wanted.start
        held = self._put(slot, wanted.shared_prefix[:count], wanted.start)
        whole = [*held, *wanted.shared_prefix[count:]]
        assert max(wanted.cuts) <= len(whole)
        self.passes.append([cut - len(PROMPT) for cut in wanted.cuts])
        verdicts = [self.judge(whole[:cut]) for cut in wanted.cuts]
        choose = SELECTIONS[wanted.rule]
        return Verdict(choose(wanted.cuts, verdicts, wanted.threshold), verdicts)


def accepting(lengths: Sequence[int]) -> Callable[[list[int]], float]:
    """A judge that likes answers of these lengths."""
    return lambda held: 0.9 if len(held) - len(PROMPT) in lengths else 0.1


@dataclass(eq=False)
class Heard:
    """A listener that keeps what it is told; `stop` is a token that ends the answer."""

    stop: int | None = None
    said: list[int] = field(default_factory=list)
    reason: str = ""
    error: Exception | None = None
    statistics: Statistics = field(default_factory=Statistics)

    def tokens(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> int | None:
        end = tokens.index(self.stop) if self.stop in tokens else None
        self.said += tokens[:end]
        return end

    def draft_end(self) -> Callable[[int], bool]:
        return lambda token: token == self.stop

    def finished(self, reason: str, statistics: Statistics) -> None:
        assert not self.done
        self.reason, self.statistics = reason, statistics

    def failed(self, error: Exception) -> None:
        assert not self.done
        self.error = error

    @property
    def done(self) -> bool:
        return bool(self.reason or self.error)

    def check(self, expected: Heard) -> None:
        """That it heard the answer that `expected` did, or, cancelled, the beginning of it."""
        assert self.error is None
        if self.reason == "cancelled":
            assert expected.said[: len(self.said)] == self.said
        else:
            assert (self.said, self.reason) == (expected.said, expected.reason)
            assert self.statistics.verdicts == expected.statistics.verdicts


def request(
    limit: int = 20,
    prompt: Sequence[int] = PROMPT,
    seed: int = 0,
    processing: Processing | None = None,
    **rules,
) -> Request:
    chosen = Rules(**{"stride": 3, **rules})
    return Request(
        prompt=prompt, draft_prompt=prompt, suffix=SUFFIX, stops=frozenset({STOP}),
        translation=SameTokens(frozenset({STOP})),
        cuts=lambda draft: stride_cuts(len(draft), chosen.stride),
        max_new_tokens=limit, rules=chosen, sampling=Sampling(seed=seed),
        processing=processing or Processing(),
    )  # fmt: skip


def answered(scheduler: Scheduler, chosen: Request) -> Heard:
    """What is heard of a request, when all that was submitted has ended."""
    scheduler.submit(chosen, heard := Heard())
    while scheduler.step():
        pass
    return heard


def submitted(
    scheduler: Scheduler, arrivals: Sequence[tuple[Request, int]], dropped: set[int]
) -> list[Heard]:
    """Submit requests, so many steps behind each, then cancel those `dropped` that still run."""
    heard: list[Heard] = []
    for chosen, pause in arrivals:
        heard.append(Heard())
        scheduler.submit(chosen, heard[-1])
        for _ in range(pause):
            scheduler.step()
    for i in dropped & set(range(len(heard))):
        if not heard[i].done:
            scheduler.cancel(heard[i])
            assert heard[i].reason == "cancelled"
    return heard
