"""One answer over scripted models: what is drafted, judged, kept and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from foundryrt.errors import UsageError
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.protocols import Verification
from parse_runtime.engine.request import Statistics
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.signature.evidence import LOG_ODDS
from parse_runtime.text.translation import SameTokens
from tests.unit.parse_fakes import PROMPT, STOP, Fake, Heard, accepting, request, scripted

DRAFT = [11, 12, 13, 14, 15, 16, 17, 18]
OWN = [31, 32, 33, 34, 35, 36, 37, 38, 39]


def target(accept: list[int] | None = None, several: int = 1) -> Fake:
    return Fake(scripted(OWN), accepting(accept or []), several)


def drafting(answer: list[int] = DRAFT) -> Fake:
    return Fake(scripted(answer))


def generate(
    target: Fake,
    draft: Fake,
    limit: int = 20,
    stop: int | None = None,
    changes: Mapping[str, object] | None = None,
    **rules: object,
) -> tuple[list[int], Statistics]:
    scheduler, heard = Scheduler(target, draft), Heard(stop)
    scheduler.submit(replace(request(limit, **rules), **(changes or {})), heard)
    while scheduler.step():
        pass
    assert heard.error is None and heard.statistics.tokens == len(heard.said)
    expected = "length" if len(heard.said) == limit else "stop"
    assert heard.reason == expected
    return heard.said, heard.statistics


def test_accepted_answer_needs_no_target_decoding() -> None:
    model = target([3, 6, 8])
    tokens, statistics = generate(model, drafting())
    assert tokens == DRAFT and statistics.accepted == statistics.drafted == 8
    assert model.passes == [[3, 6, 8]] and model.rows[0] == PROMPT + DRAFT
    assert statistics.advances == 0 and not model.batches


def test_rejected_answer_is_the_targets_own() -> None:
    tokens, statistics = generate(target(), drafting())
    assert tokens == OWN and statistics.accepted == 0 and statistics.drafted == 8


def test_first_failure_stops_where_longest_accepted_does_not() -> None:
    tokens, _ = generate(target([3, 8]), drafting())
    assert tokens == DRAFT[:3] + OWN[3:]
    tokens, statistics = generate(target([3, 8]), drafting(), selection="longest-accepted")
    assert tokens == DRAFT and statistics.accepted == 8


def test_target_resumes_from_the_cropped_rows() -> None:
    model = target([3, 6])
    tokens, _ = generate(model, drafting())
    assert tokens == DRAFT[:6] + OWN[6:]
    assert model.rows[0] == PROMPT + tokens


def test_two_stages_judge_prefixes_only_of_a_rejected_whole() -> None:
    model = target([8])
    tokens, _ = generate(model, drafting(), two_stage=True)
    assert model.passes == [[8]] and tokens == DRAFT
    model = target([3, 6])
    tokens, statistics = generate(model, drafting(), two_stage=True)
    assert model.passes == [[8], [3, 6]] and tokens == DRAFT[:6] + OWN[6:]
    assert statistics.verdicts == [[(3, 0.9), (6, 0.9), (8, 0.1)]]


def test_a_score_gets_the_row_before_the_draft_and_all_cuts_at_once() -> None:
    model, asked = target([3, 6]), []
    model.verify = lambda slot, wanted: asked.append(wanted) or Fake.verify(model, slot, wanted)
    changes = {"score": LOG_ODDS}
    tokens, _ = generate(
        model, drafting(), two_stage=True, max_rounds=2, resume_tokens=1, changes=changes
    )
    assert tokens == DRAFT[:6] + OWN[6:]
    base = len(PROMPT)
    assert (asked[0].start, asked[0].drafted) == (base - 1, base)
    assert asked[0].shared_prefix == [PROMPT[-1], *DRAFT] and len(asked[0].cuts) == 3
    # The last token of the target is not in its cache yet: it is given as it is.
    assert asked[1].drafted - asked[1].start == 1


@pytest.mark.parametrize("kept", [6, 8])
def test_without_a_question_the_target_computes_the_draft_s_last_token_when_it_goes_on(
    kept: int,
) -> None:
    """The fake refuses rows behind one that is missing."""
    model, draft = target([3, kept]), drafting()
    draft.max_len = len(PROMPT) + len(DRAFT)  # No room to say that it ends.
    rules = {"selection": "longest-accepted", "changes": {"score": LOG_ODDS, "suffix": []}}
    asked: list[Verification] = []
    model.verify = lambda slot, wanted: asked.append(wanted) or Fake.verify(model, slot, wanted)
    tokens, _ = generate(model, draft, **rules)
    assert tokens == DRAFT[:kept] + OWN[kept:] and model.rows[0] == PROMPT + tokens
    assert [one.rows for one in asked] == [len(DRAFT)]


def test_later_rounds_draft_on_from_the_target() -> None:
    model, draft = target([3]), drafting()
    tokens, statistics = generate(model, draft, max_rounds=2, resume_tokens=2)
    # 3 accepted, 2 of the target, then the second draft 16 17 18 is rejected.
    assert tokens == DRAFT[:3] + OWN[3:] and statistics.rounds == 2
    assert statistics.drafted == 8 + 3 and model.passes[1] == [8]
    assert draft.rows[0][: len(PROMPT) + 5] == PROMPT + DRAFT[:3] + OWN[3:5]


def test_no_rounds_is_the_target_alone() -> None:
    draft = drafting()
    tokens, statistics = generate(target(), draft, max_rounds=0)
    assert tokens == OWN and statistics.drafted == 0 and not draft.rows


@pytest.mark.parametrize("limit", [1, 4, 8])
@pytest.mark.parametrize("several", [1, 4])
def test_answer_ends_at_the_limit(limit: int, several: int) -> None:
    for accept in ([3, 6, 8, limit], []):
        tokens, _ = generate(target(accept, several), drafting(), limit)
        assert tokens == (DRAFT if accept else OWN)[:limit]


@pytest.mark.parametrize("several", [2, 3, 7])
def test_several_tokens_a_pass_are_the_same_answer(several: int) -> None:
    for rules in ({}, {"max_rounds": 3, "resume_tokens": 2}):
        tokens, statistics = generate(target([3], several), drafting(), **rules)
        assert tokens == DRAFT[:3] + OWN[3:]
        assert 1 < statistics.report()["tokens_per_advance"] <= several


@pytest.mark.parametrize("several", [1, 4])
def test_a_stop_of_the_listener_ends_draft_and_answer(several: int) -> None:
    model = target([3, 5], several)
    assert generate(model, drafting(), stop=15)[0] == DRAFT[:4]
    # The draft itself ended there.
    assert model.passes == [[3, 5]]
    assert generate(target([], several), drafting(), stop=35)[0] == OWN[:4]


def test_empty_draft_leaves_it_to_the_target() -> None:
    model = target()
    tokens, statistics = generate(model, drafting([]))
    assert tokens == OWN and model.passes == [] and statistics.rounds == 1


def test_a_small_draft_model_drafts_what_it_can_hold() -> None:
    draft = drafting()
    draft.max_len = len(PROMPT) + 4
    tokens, statistics = generate(target([3, 4]), draft, max_rounds=2, resume_tokens=1)
    assert tokens == DRAFT[:4] + OWN[4:] and statistics.drafted == 4
    assert statistics.rounds == 2


def test_times_of_the_phases_add_up() -> None:
    _, s = generate(target([3]), drafting())
    parts = s.queue_seconds + s.prefill_seconds + s.draft_seconds + s.verify_seconds
    assert 0 < parts + s.resume_seconds <= s.seconds
    assert 0 < s.first_token_seconds < s.seconds


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": 1.5}, "probability"),
        ({"stride": 0}, "stride 0"),
        ({"max_rounds": -1}, "max-rounds"),
        ({"selection": "best"}, "first-failure"),
        ({"cut_at": "word"}, "sentence"),
        ({"stride": "many"}, r"Expected `int`, got `str` - at `\$.stride`"),
        ({"strides": 3}, "no parse setting 'strides'; there are threshold"),
    ],
)
def test_rules_that_cannot_work_are_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Rules().changed(change)


def test_refusals_say_what_to_do() -> None:
    scheduler = Scheduler(target(), drafting())
    for limit, prompt, named in ((62, PROMPT, "larger --max-len"), (0, PROMPT, "at least 1")):
        with pytest.raises(UsageError, match=named):
            scheduler.submit(request(limit, prompt), Heard())
    with pytest.raises(UsageError, match="no tokens"):
        scheduler.submit(request(1, []), Heard())
    for values in ({"temperature": -1}, {"top_p": 0}, {"seed": -1}, {"temperature": float("nan")}):
        with pytest.raises(UsageError, match="is needed"):
            Sampling(**values)


@dataclass(frozen=True)
class Unlike(SameTokens):
    """As of two tokenizers, whose ids happen to be the same."""

    same: bool = False


@pytest.mark.parametrize("kind", [SameTokens, Unlike])
def test_a_requests_own_stop_token_ends_draft_and_answer(kind: type[SameTokens]) -> None:
    def stopping(token: int) -> dict[str, object]:
        return {"stops": frozenset({STOP, token}), "translation": kind(frozenset({STOP}))}

    tokens, statistics = generate(target([3, 4]), drafting(), changes=stopping(15))
    assert tokens == DRAFT[:4] and statistics.accepted == statistics.drafted == 4
    tokens, _ = generate(target(), drafting(), changes=stopping(34))
    assert tokens == OWN[:3]
    # A draft that is not kept whole ends nothing.
    tokens, _ = generate(target([3]), drafting(), changes=stopping(15))
    assert tokens == DRAFT[:3] + OWN[3:]


@pytest.mark.parametrize("kind", [SameTokens, Unlike])
def test_stop_tokens_that_are_ignored_are_tokens_like_others(kind: type[SameTokens]) -> None:
    ignoring = {"stops": frozenset[int](), "ends": False, "translation": kind(frozenset({STOP}))}
    tokens, _ = generate(target(), drafting(), limit=12, changes=ignoring)
    assert tokens == [*OWN, STOP, STOP, STOP]
    tokens, _ = generate(target([3, 6, 8, 9, 12]), drafting(), limit=12, changes=ignoring)
    assert tokens[:8] == DRAFT and len(tokens) == 12
