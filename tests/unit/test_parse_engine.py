"""The engine over scripted models: what is drafted, judged, kept and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from foundryrt.errors import UsageError
from parse_runtime.engine import Engine
from parse_runtime.judge import longest_accepted, stride_cuts
from parse_runtime.roles import Rules, Statistics
from parse_runtime.sampling import Prediction, Sampler

STOP, PROMPT, SUFFIX = 0, [90, 91, 92], [70, 71]


@dataclass
class Scripted:
    """Predicts `answer[i]` after i tokens of answer; checks the rows it is given are there."""

    answer: Sequence[int]
    accept: Sequence[int] = ()
    """Prefix lengths of the draft whose verdict is high."""
    max_len: int = 64
    tokenizer: str = "t"
    rows: list[int] = field(default_factory=list)
    passes: list[list[int]] = field(default_factory=list)

    def _predict(self) -> Prediction:
        index = len(self.rows) - len(PROMPT)
        token = self.answer[index] if index < len(self.answer) else STOP
        logits = np.full(100, -100.0, np.float32)
        logits[token] = 0
        return Prediction(token, lambda: logits)

    def prefill(self, tokens: Sequence[int], start: int) -> Prediction:
        assert tokens and start <= len(self.rows)
        self.rows[start:] = tokens
        return self._predict()

    def decode(self, token: int, position: int) -> Prediction:
        assert position <= len(self.rows)
        self.rows[position:] = [token]
        return self._predict()

    def verify(
        self, trunk: Sequence[int], start: int, suffix: Sequence[int], cuts: Sequence[int]
    ) -> list[float]:
        assert start <= len(self.rows) and list(suffix) == SUFFIX
        self.rows[start:] = trunk
        assert max(cuts) <= len(self.rows)
        self.passes.append([cut - len(PROMPT) for cut in cuts])
        return [0.9 if cut - len(PROMPT) in self.accept else 0.1 for cut in cuts]


def generate(
    target: Scripted, draft: Scripted, limit: int = 20, **rules: object
) -> tuple[list[int], Statistics]:
    tokens: list[int] = []
    values: dict[str, object] = {
        "cuts": lambda d: stride_cuts(len(d), 3), "suffix": SUFFIX, "stops": frozenset({STOP}),
        **rules,
    }  # fmt: skip
    engine = Engine(target, draft, Rules(**values), Sampler())  # type: ignore[arg-type]
    statistics = engine.generate(PROMPT, limit, tokens.extend)
    assert statistics.tokens == len(tokens)
    return tokens, statistics


DRAFT = [11, 12, 13, 14, 15, 16, 17, 18]
OWN = [31, 32, 33, 34, 35, 36, 37, 38, 39]


def test_accepted_answer_needs_no_target_decoding() -> None:
    target = Scripted(OWN, accept=[3, 6, 8])
    tokens, statistics = generate(target, Scripted(DRAFT))
    assert tokens == DRAFT and statistics.accepted == statistics.drafted == 8
    assert target.passes == [[3, 6, 8]] and target.rows == PROMPT + DRAFT


def test_rejected_answer_is_the_targets_own() -> None:
    tokens, statistics = generate(Scripted(OWN), Scripted(DRAFT))
    assert tokens == OWN and statistics.accepted == 0 and statistics.drafted == 8


def test_first_failure_stops_where_longest_accepted_does_not() -> None:
    accept = [3, 8]
    tokens, _ = generate(Scripted(OWN, accept), Scripted(DRAFT))
    assert tokens == DRAFT[:3] + OWN[3:]
    tokens, statistics = generate(Scripted(OWN, accept), Scripted(DRAFT), select=longest_accepted)
    assert tokens == DRAFT and statistics.accepted == 8


def test_target_resumes_from_the_cropped_rows() -> None:
    target = Scripted(OWN, accept=[3, 6])
    tokens, _ = generate(target, Scripted(DRAFT))
    assert tokens == DRAFT[:6] + OWN[6:]
    assert target.rows == PROMPT + tokens


def test_two_stages_judge_prefixes_only_of_a_rejected_whole() -> None:
    target = Scripted(OWN, accept=[8])
    tokens, _ = generate(target, Scripted(DRAFT), two_stage=True)
    assert target.passes == [[8]] and tokens == DRAFT
    target = Scripted(OWN, accept=[3, 6])
    tokens, statistics = generate(target, Scripted(DRAFT), two_stage=True)
    assert target.passes == [[8], [3, 6]] and tokens == DRAFT[:6] + OWN[6:]
    assert statistics.verdicts == [[(3, 0.9), (6, 0.9), (8, 0.1)]]


def test_later_rounds_draft_on_from_the_target() -> None:
    target, draft = Scripted(OWN, accept=[3]), Scripted(DRAFT)
    tokens, statistics = generate(target, draft, max_rounds=2, resume_tokens=2)
    # 3 accepted, 2 of the target, then the second draft 16 17 18 is rejected.
    assert tokens == DRAFT[:3] + OWN[3:] and statistics.rounds == 2
    assert statistics.drafted == 8 + 3 and target.passes[1] == [8]
    assert draft.rows[: len(PROMPT) + 5] == PROMPT + DRAFT[:3] + OWN[3:5]


def test_no_rounds_is_the_target_alone() -> None:
    tokens, statistics = generate(Scripted(OWN), Scripted(DRAFT), max_rounds=0)
    assert tokens == OWN and statistics.drafted == 0


@pytest.mark.parametrize("limit", [1, 4, 8])
def test_answer_ends_at_the_limit(limit: int) -> None:
    for accept in ([3, 6, 8, limit], []):
        tokens, _ = generate(Scripted(OWN, accept), Scripted(DRAFT), limit)
        assert tokens == (DRAFT if accept else OWN)[:limit]


def test_empty_draft_leaves_it_to_the_target() -> None:
    target = Scripted(OWN)
    tokens, statistics = generate(target, Scripted([]))
    assert tokens == OWN and target.passes == [] and statistics.rounds == 1


def test_sampling_is_seeded_and_follows_the_logits() -> None:
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    prediction = Prediction(0, lambda: logits)
    draws = [[s.pick(prediction) for _ in range(2000)] for s in (Sampler(1, 5), Sampler(1, 5))]
    assert draws[0] == draws[1]
    assert np.bincount(draws[0], minlength=3) / 2000 == pytest.approx([0.7, 0.2, 0.1], abs=0.05)


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="larger --max-len"):
        generate(Scripted(OWN), Scripted(DRAFT), 62)
    with pytest.raises(UsageError, match="same family"):
        generate(Scripted(OWN), Scripted(DRAFT, tokenizer="other"))
    with pytest.raises(UsageError, match="at least 1"):
        generate(Scripted(OWN), Scripted(DRAFT), 0)
