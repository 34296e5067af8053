"""The logistic fit, its areas and thresholds, the questions and how answers are checked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.calibration import questions
from parse_runtime.calibration.answers import agree, gives, last_number
from parse_runtime.calibration.calibrate import best, calibrated, least_threshold
from parse_runtime.calibration.collect import Draft, Samples
from parse_runtime.calibration.fit import auc, cross_validated, fit, logistic
from parse_runtime.calibration.fitted import Fitted
from parse_runtime.engine.calibration import Calibration
from parse_runtime.engine.rules import Rules
from parse_runtime.signature.evidence import EVIDENCE, LOG_ODDS


def data(seed: int, samples: int = 80, columns: int = 3) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    x = g.normal(size=(samples, columns)) * [1.0, 30.0, 0.01][:columns] + [0.0, 500.0, -2.0]
    right = (x[:, 0] - (x[:, 1] - 500) / 30 + g.normal(size=samples)) > 0
    return x, right


@pytest.mark.parametrize("penalty", [0.3, 5.0])
def test_the_fit_is_the_penalised_maximum(penalty: float) -> None:
    x, right = data(1)
    found = fit(x, right, penalty)
    scaled = (x - x.mean(0)) / x.std(0)

    def loss(w: np.ndarray) -> float:
        scores = scaled @ w[:-1] + w[-1]
        likelihood = np.logaddexp(0, np.where(right, -scores, scores)).sum()
        return float(likelihood + penalty / 2 * (w[:-1] @ w[:-1]) + 5e-7 * w[-1] ** 2)

    best = minimize(loss, np.zeros(4), tol=1e-12).x
    assert found.scores(x) == pytest.approx(scaled @ best[:-1] + best[-1], abs=1e-3)


def test_a_constant_column_and_a_perfect_separation_are_no_trouble() -> None:
    x, right = data(2)
    x[:, 2] = 7.0
    x[:, 0] = np.where(right, 1e3, -1e3)
    found = fit(x, right, 1.0)
    assert found.weights[2] == 0 and np.isfinite(found.weights).all()
    assert auc(found.scores(x), right) == 1.0


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda pairs: len({right for _, right in pairs}) == 2
    )
)
def test_the_area_is_mann_and_whitneys(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in pairs])
    right = np.array([flag for _, flag in pairs])
    statistic = mannwhitneyu(scores[right], scores[~right]).statistic
    assert auc(scores, right) == pytest.approx(statistic / (right.sum() * (~right).sum()))


def test_scores_of_a_group_are_of_fits_without_it() -> None:
    """A column that names its group's label is worthless to the other groups."""
    g = np.random.default_rng(4)
    groups = np.repeat(np.arange(20), 3)
    right = g.permutation(np.repeat([True, False], 10))[groups]
    x = (groups[:, None] == np.arange(20)).astype(float)
    assert auc(fit(x, right, 0.1).scores(x), right) == 1.0
    assert auc(cross_validated(x, right, groups, 0.1, np.ones_like(right)), right) < 0.6


@settings(max_examples=200)
@given(
    verdicts=st.lists(
        st.tuples(st.integers(0, 63).map(lambda n: n / 64), st.booleans()), min_size=1, max_size=30
    ),
    share=st.sampled_from([0.0, 0.05, 0.3, 0.99]),
)
def test_the_threshold_is_the_least_that_keeps_few_wrong_ones(
    verdicts: list[tuple[float, bool]], share: float
) -> None:
    kept = np.array([verdict for verdict, _ in verdicts])
    right = np.array([flag for _, flag in verdicts])
    threshold = least_threshold(kept, right, share)
    wrong = kept[~right]
    assert (wrong >= threshold).sum() <= share * len(wrong)
    lower = kept[kept < threshold]
    if len(lower):
        assert (wrong >= lower.max()).sum() > share * len(wrong)


def sample(seed: int, drafts: int, informative: bool, by: str = "draft_disagreements") -> Samples:
    g = np.random.default_rng(seed)
    found = []
    for number in range(drafts):
        right = number % 2 == 0
        evidence = g.normal(size=(3, len(EVIDENCE))).astype(np.float32)
        if informative:
            evidence[:, EVIDENCE.index(by)] += 0 if right else 4
        found.append(Draft([4, 8, 11], evidence, {4: True, 8: right, 11: right}, True))
    return Samples(found)


@pytest.fixture(scope="module")
def good() -> Calibration:
    return calibrated(sample(1, 60, True), Rules(), "m", 0.05)


def test_a_calibration_says_whether_verdicts_separate_and_is_read_back(good: Calibration) -> None:
    bad = calibrated(sample(1, 60, False), Rules(), "m", 0.05)
    assert good.separates and good.auc > 0.95 and "max_rounds" not in good.rules
    assert not bad.separates and bad.rules["max_rounds"] == 0
    assert good.report["wrong_kept_whole"]["hits"] <= 1
    assert good.report["right_kept_whole"]["share"] > 0.6
    assert good.report["auc"]["drafts"]["low"] > 0.85 > bad.report["auc"]["drafts"]["value"]
    assert Calibration.read(good.packed(), "m") == good
    x = sample(1, 60, True).evidence
    verdicts = logistic(x @ np.array(good.score.weights) + good.score.offset)
    assert auc(verdicts, sample(1, 60, True).right) > 0.8
    with pytest.raises(FoundryError, match="other models"):
        Calibration.read(good.packed(), "n")


def test_whole_drafts_and_prefixes_have_fits_of_their_own() -> None:
    """What speaks for a prefix may speak against a whole draft."""
    g, drafts, column = np.random.default_rng(6), [], EVIDENCE.index("segment_entropy")
    for number in range(80):
        right, fine = number % 2 == 0, number % 4 < 2
        evidence = g.normal(size=(2, len(EVIDENCE))).astype(np.float32)
        evidence[:, column] += 4 * np.array([not fine, right])
        drafts.append(Draft([4, 8], evidence, {4: fine, 8: right}, True))
    found = calibrated(Samples(drafts), Rules(), "m", 0.05)
    assert found.report["auc"]["drafts"]["value"] > 0.95 < found.report["auc"]["prefixes"]["value"]
    assert found.weights["segment_entropy"] < 0 < found.whole_weights["segment_entropy"]
    # One threshold serves both.
    first = [found.score.verdict(d.evidence[0]) >= found.threshold for d in drafts]
    fine = [d.right[4] for d in drafts]
    assert sum(a and not b for a, b in zip(first, fine, strict=True)) <= 2
    assert sum(a and b for a, b in zip(first, fine, strict=True)) > 25
    assert found.score.whole is not None
    whole = [found.score.whole.verdict(d.evidence[1]) >= found.threshold for d in drafts]
    assert sum(a and d.right[8] for a, d in zip(whole, drafts, strict=True)) > 25


def test_a_prefix_of_what_the_target_cannot_answer_tells_nothing() -> None:
    evidence = np.zeros((2, len(EVIDENCE)), np.float32)
    found = Samples([
        Draft([4, 8], evidence, {4: right, 8: False}, own)
        for right, own in ((True, True), (False, True), (True, False), (False, False))
    ])  # fmt: skip
    assert found.telling.tolist() == [True, True, True, True, True, True, False, True]
    drafts = sample(3, 60, True).drafts
    unanswered = [replace(d, right=dict.fromkeys(d.right, False), target_right=False)
                  for d in drafts]  # fmt: skip
    plain = Fitted.of(Samples(drafts))
    assert Fitted.of(Samples([*drafts, *unanswered])).weights(False) == plain.weights(False)
    answered = [replace(d, target_right=True) for d in unanswered]
    assert Fitted.of(Samples([*drafts, *answered])).weights(False) != plain.weights(False)


def test_an_older_calibration_has_one_fit_for_all(good: Calibration) -> None:
    older = json.loads(good.packed())
    del older["whole_weights"], older["whole_offset"]
    found = Calibration.read(json.dumps(older).encode(), "m")
    assert found.score.whole is None and found.score.weights == good.score.weights


def test_without_a_question_the_judge_does_not_count() -> None:
    found = calibrated(sample(1, 60, True), Rules(judge_prompt=""), "m", 0.05)
    assert found.score.weights[0] == 0 and found.score.weighs_tokens
    assert not LOG_ODDS.weighs_tokens


def test_a_judge_is_asked_where_its_answer_adds_to_the_rest() -> None:
    idle = best(sample(1, 60, True), Rules(), "m", 0.05)
    assert idle.judge_prompt == "" and idle.score.weights[0] == 0 and idle.auc > 0.95
    assert idle.report["auc_with_the_judge"]["drafts"]["value"] > 0.95
    needed = best(sample(1, 60, True, by="log_odds"), Rules(), "m", 0.05)
    assert needed.judge_prompt == Rules().judge_prompt and needed.score.weights[0] < 0
    assert needed.auc > needed.report["auc_without_the_judge"]["drafts"]["value"] + 0.2
    assert "auc_with_the_judge" not in needed.report


def test_a_judge_is_asked_where_verdicts_would_not_separate_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However little its answer adds."""
    samples, unasked = sample(2, 60, True), Rules(judge_prompt="")
    area = calibrated(samples, Rules(), "m", 0.05).auc
    assert area - 0.005 < calibrated(samples, unasked, "m", 0.05).auc < area
    assert best(samples, Rules(), "m", 0.05).judge_prompt == ""
    monkeypatch.setattr("parse_runtime.engine.calibration.SEPARATES", area)
    found = best(samples, Rules(), "m", 0.05)
    assert found.judge_prompt == Rules().judge_prompt and found.separates


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"luck": 1.0}},
        {"whole_weights": {"luck": 1.0}},
        {"threshold": "x"},
        {"more": 1},
        {"auc": None},
    ],
)
def test_a_damaged_calibration_is_refused(good: Calibration, change: dict[str, object]) -> None:
    damaged = json.dumps({**json.loads(good.packed()), **change}).encode()
    for data in (damaged, b"\xff", b"[" * 100_000):
        with pytest.raises(FoundryError, match="cannot be read"):
            Calibration.read(data, "m")


def test_too_few_right_or_wrong_drafts_are_refused() -> None:
    with pytest.raises(UsageError, match="of 6 drafts 3 are right"):
        calibrated(sample(1, 6, True), Rules(), "m", 0.05)


def test_questions_are_unlike_and_the_same_again() -> None:
    made = questions.make(200)
    assert made == questions.make(200) and len({q.prompt for q in made}) == 200
    assert made != questions.make(200, seed=1)
    code = [q for q in made if "Python" in q.prompt]
    assert len(code) > 20
    for question in code:
        shown = question.prompt.removesuffix(f" {questions.BRIEFLY}").partition("print(")[2][:-1]
        assert str(eval(shown)) == question.answer


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("5 times 7 is 35.", "35", True), ("It is 35, not 36", "35", False),
        ("1,204", "1204", True),
        ("x = -3.0", "-3", True), ("none", "0", False), ("It is PARIS!", "Paris", True),
        ("Parisian", "Paris", False), ("Homer wrote it", "Homer|Homeros", True),
    ],
)  # fmt: skip
def test_answers_are_numbers_at_the_end_or_words(text: str, answer: str, right: bool) -> None:
    assert gives(text, answer) == right


def test_unknown_answers_are_compared() -> None:
    assert agree("So it is 4.", "2 + 2 = 4") and not agree("4", "5")
    assert agree("The  cat.", "the cat") and not agree("the cat", "a cat")
    assert not agree("4", "four") and last_number("") is None
