"""What the engine asks of its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from parse_runtime.engine.batch import Batch, Chunk
from parse_runtime.engine.tables import Tables
from parse_runtime.signature.evidence import Evidence, Score
from parse_runtime.signature.plan import verified
from parse_runtime.signature.selection import SelectionRule
from parse_runtime.signature.sizes import MixedSize, PrefillSize, SharedSize

Logits = NDArray[np.float32]
"""[vocabulary], of one row."""


@dataclass(frozen=True)
class Verification:
    """Judge the sequence cut to each length of `cuts`, in one pass where one is large enough.

    `shared_prefix` are the tokens from position `start` on that the slot does not hold yet.
    """

    shared_prefix: Sequence[int]
    start: int
    cuts: Sequence[int]
    suffix: Sequence[int]
    """The judge's question."""
    threshold: float = 0.5
    rule: SelectionRule = SelectionRule.FIRST_FAILURE
    score: Score | None = None
    """What makes verdicts of the cuts' evidence; None: the judge's answer, without evidence."""
    drafted: int = 0
    """Position of the draft's first token. There is evidence of the tokens from here on that have
    a token of `shared_prefix` before them."""

    @property
    def held(self) -> int:
        """Tokens of the sequence that the slot holds afterwards."""
        return self.start + verified(len(self.shared_prefix), self.suffix)

    @property
    def rows(self) -> int:
        """What it takes of a pass, where one is large enough."""
        return self.held - self.start + len(self.cuts) * len(self.suffix)


@dataclass(frozen=True)
class Verdict:
    """What a verification found: the kept cut (0 for none) and each cut's verdict."""

    kept: int
    verdicts: list[float]
    evidence: Evidence | None = None
    """Of each cut, where there was a score."""


Prefilled = Callable[[], list[int | Logits | None]]
"""Waits for a prefill pass: the token, or the logits, that follow each chunk; None where a prompt
goes on."""


class Decoder(Protocol):
    """A model whose cache holds `slots` sequences of up to `max_len` tokens.

    Every pass says at which positions it writes; whatever a slot holds from there on is void.
    A pass that is repeated gives the same again. `tables` must have blocks for all rows that a
    pass writes.
    """

    max_len: int
    slots: int
    prefills: tuple[PrefillSize, ...]
    """Sizes of its prefill passes, rising."""
    tables: Tables
    reach: int
    """Rows that a decode or extend pass may write, from its token's on."""

    def hold(self, slot: int, tokens: Sequence[int]) -> None:
        """The slot begins with these tokens, in blocks that it was given to share."""

    def forget(self, slot: int) -> None:
        """Give back the slot's blocks, and what they hold."""

    def ready(self, chunks: Sequence[Chunk]) -> bool:
        """Whether a pass of these need not wait for its graph, which is made next if it must."""

    def overlaps(self, chunks: Sequence[Chunk]) -> bool:
        """Whether a pass of these is on its way while the host goes on."""

    def begin_prefill(self, chunks: Sequence[Chunk]) -> Prefilled:
        """Launch a pass that puts tokens behind what their slots hold.

        One of `prefills` must hold the chunks, which are of different slots. Another pass that is
        launched before its results are waited for may make them void.
        """

    def decode(self, batch: Batch) -> list[int]:
        """Put each token into its slot; the token that follows each."""


class Target(Decoder, Protocol):
    """A decoder that also judges, and may have several tokens of its own in one pass."""

    proposes: int
    """Rows of the draft model, from a step's own on, that an extend pass may have it write."""

    shared: tuple[SharedSize, ...]
    """Sizes of its verify passes of several drafts, rising."""

    mixed: tuple[MixedSize, ...]
    """Sizes of its passes of prompts and a decode step, by their batches, rising."""

    def mixes(self, chunks: Sequence[Chunk], count: int) -> bool:
        """Whether one pass has these chunks, and a step of so many sequences beside them."""

    def begin_mixed(self, chunks: Sequence[Chunk], batch: Batch) -> Prefilled:
        """As `begin_prefill`, in a pass that also has a step of the batch, of other slots.

        What the step found is in the answer of `extend` when that is asked for it.
        """

    def extend(self, batch: Batch) -> list[list[int] | Logits | None]:
        """As `decode`, but one or more tokens that follow each, as plain decoding would give.

        For the batch's `scored` sequences, the logits after the token. None for those that are to
        be asked for again, as others' steps were on their way already.
        """

    def verify(self, slot: int, verification: Verification) -> Verdict:
        """Judge prefixes of a slot's sequence; afterwards the slot holds it as `held` says."""

    def shares(self, verification: Verification) -> Sequence[SharedSize]:
        """Those of `shared` that it may be in."""

    def ready_to_verify(self, wanted: Mapping[int, Verification]) -> bool:
        """As `ready`, of passes that judge these."""

    def verify_pass(self, wanted: Mapping[int, Verification]) -> list[Verdict]:
        """As `verify`, of several slots in one pass, which one of `shared` must allow."""
