"""Evidence of verify passes against distributions of separate prefills, and verdicts of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, VOCAB, eager, logits, save

from foundryrt.errors import UsageError
from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.judge import SELECTIONS, whole_first
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.loading import open_models
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.kernels.evidence import whole_tiles
from parse_runtime.models.decoder import logits_of
from parse_runtime.signature.evidence import EVIDENCE, LOG_ODDS, Score
from parse_runtime.signature.selection import SelectionRule

Loaded = tuple[EagerSession, GraphTarget, GraphDecoder]
WORDS = 5, 9
DIGITS = range(15, 25)
"""Of the byte tokenizer, whose first token is !."""
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("pair")
    save(folder / "target", "qwen3")
    save(folder / "draft", "qwen3", num_hidden_layers=1)
    s = Settings(
        model=str(folder / "target"), draft=str(folder / "draft"), max_len=64, slots=2,
        prefill="16,64", verify="24x2,60x4", evidence="9,30", evidence_share=1.0,
    )  # fmt: skip
    return eager(s, WORDS)[:3]


def write_draft(draft: GraphDecoder, slot: int, count: int) -> list[int]:
    """Greedy tokens of the draft model."""
    tokens = [draft.prefill(slot, PROMPT, 0, GREEDY)]
    while len(tokens) < count:
        position = len(PROMPT) + len(tokens) - 1
        tokens += draft.decode(Batch([slot], [tokens[-1]], [position], [GREEDY]))
    return tokens


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64) - scores.max()
    return scores - np.log(np.exp(scores).sum())


def expected(
    target: list[np.ndarray], own: list[float], draft: list[int], cuts: list[int]
) -> np.ndarray:
    """[cuts, EVIDENCE] but the log-odds, of the target's logits before each drafted token."""

    def columns(places: Iterable[int]) -> list[float]:
        rows = [log_softmax(target[i]) for i in places]
        tokens = [draft[i] for i in places]
        found = [row[token] for row, token in zip(rows, tokens, strict=True)]
        return [
            len(tokens),
            sum(row.argmax() != token for row, token in zip(rows, tokens, strict=True)),
            sum(np.exp(value) < 0.3 for value in found),
            sum(found),
            sum(-(np.exp(row) * row).sum() for row in rows),
            sum(own[i] for i in places),
            min(found, default=0),
            sum(found) / max(len(found), 1),
        ]

    before = [0, *cuts[:-1]]
    digit = [token in DIGITS for token in draft]
    return np.array([
        columns(range(c)) + columns(range(b, c)) + columns([i for i in range(c) if digit[i]])
        for b, c in zip(before, cuts, strict=True)
    ])  # fmt: skip


@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    draft=st.lists(st.integers(0, VOCAB - 1) | st.sampled_from(DIGITS), min_size=1, max_size=40),
    suffix=st.lists(st.integers(0, VOCAB - 1), max_size=7),
    start=st.integers(0, len(PROMPT) - 1),
    data=st.data(),
)
def test_evidence_is_that_of_separate_prefills(
    pair: Loaded, draft: list[int], suffix: list[int], start: int, data: st.DataObject
) -> None:
    """Also where a draft takes several passes; without a suffix only the tokens count."""
    session, target, _ = pair
    some = data.draw(st.sets(st.integers(1, len(draft)), max_size=5))
    cuts = sorted(some | {len(draft)})
    target.prefill(1, PROMPT[:start] or PROMPT[:1], 0, GREEDY)
    session.tensors["draft.likelihood"].zero_()
    base = len(PROMPT)
    weights = np.linspace(-0.2, 0.2, len(EVIDENCE))
    weights[0] = 1.0 if suffix else 0.0
    whole = Score(tuple(-weights), 0.1) if data.draw(st.booleans()) else None
    score = Score(tuple(weights), 0.25, whole)
    wanted = Verification(
        (PROMPT + draft)[start:], start, [base + cut for cut in cuts], suffix, 0.4,
        SelectionRule.LONGEST_ACCEPTED, score, base,
    )  # fmt: skip
    found = target.verify(1, wanted)
    assert found.evidence is not None and found.evidence.shape == (len(cuts), len(EVIDENCE))
    rows = [logits(target, PROMPT + draft[:i], slot=0) for i in range(len(draft))]
    should = expected(rows, [0.0] * len(draft), draft, cuts)
    assert found.evidence[:, 1:] == pytest.approx(should, rel=2e-3, abs=2e-3)
    if suffix:
        for cut, odds in zip(cuts, found.evidence[:, 0], strict=True):
            scores = logits(target, PROMPT + draft[:cut] + suffix, slot=0)
            assert odds == pytest.approx(scores[WORDS[0]] - scores[WORDS[1]], abs=2e-3)
    totals = found.evidence.astype(np.float64) @ weights + 0.25
    if whole:
        totals[-1] = 0.35 - totals[-1]
    assert found.verdicts == pytest.approx(1 / (1 + np.exp(-totals)), abs=1e-4)
    cuts, verdicts, threshold = wanted.cuts, found.verdicts, float(np.float32(0.4))
    if whole:
        assert found.kept == whole_first(cuts, verdicts, threshold, wanted.rule)
    else:
        assert found.kept == SELECTIONS[wanted.rule](cuts, verdicts, threshold)


def test_without_a_suffix_a_draft_takes_as_many_rows_as_it_has_tokens(pair: Loaded) -> None:
    """And the target goes on behind it as behind a prefill."""
    _, target, _ = pair
    base, draft = len(PROMPT), [int(t) for t in np.random.default_rng(3).integers(0, VOCAB, 24)]
    cuts = [base + 9, base + 24]
    wanted = Verification([PROMPT[-1], *draft], base - 1, cuts, [], score=LOG_ODDS, drafted=base)
    assert (wanted.rows, wanted.held) == (24, base + 23)
    target.prefill(1, PROMPT, 0, GREEDY)
    target.verify(1, wanted)
    assert target.row_tokens[1, : base + 24].tolist() == [*PROMPT, *draft[:-1], -1]
    last = Batch([1], [draft[-1]], [base + 23], [GREEDY], frozenset({1}))
    [after] = target.extend(last)
    expected = logits(target, PROMPT + draft, slot=0)
    assert np.abs(after - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_drafts_own_log_probabilities_are_those_of_its_drafting(pair: Loaded) -> None:
    _, target, other = pair
    for slot in (0, 1):
        draft = write_draft(other, slot, 12)
        rows = [logits(other, PROMPT + draft[:i], slot=1 - slot) for i in range(12)]
        own = [log_softmax(row)[token] for row, token in zip(rows, draft, strict=True)]
        write_draft(other, slot, 12)
        target.prefill(slot, PROMPT, 0, GREEDY)
        base = len(PROMPT)
        found = target.verify(
            slot,
            Verification(
                [PROMPT[-1], *draft], base - 1, [base + 5, base + 12], [60, 61], score=LOG_ODDS,
                drafted=base,
            ),
        )  # fmt: skip
        assert found.evidence is not None
        column = EVIDENCE.index("draft_draft_log_likelihood")
        assert found.evidence[:, column] == pytest.approx([sum(own[:5]), sum(own)], abs=1e-3)
        column = EVIDENCE.index("segment_draft_log_likelihood")
        assert found.evidence[1, column] == pytest.approx(sum(own[5:]), abs=1e-3)


def test_the_target_is_asked_about_tokens_that_the_draft_model_is_least_sure_of(
    pair: Loaded, tmp_path: Path
) -> None:
    save(tmp_path / "target", "qwen3")
    save(tmp_path / "draft", "qwen3", num_hidden_layers=1)
    s = Settings(
        model=str(tmp_path / "target"), draft=str(tmp_path / "draft"), max_len=64, slots=2,
        prefill="16", verify="60x4", evidence="30", evidence_share=0.25,
    )  # fmt: skip
    session, target, _, _ = eager(s, WORDS)
    draft, base = [int(t) for t in np.random.default_rng(1).integers(0, VOCAB, 20)], len(PROMPT)
    own = -np.random.default_rng(2).random(20)
    session.tensors["draft.likelihood"][1, base - 1 : base + 19] = torch.from_numpy(own).float()
    target.prefill(1, PROMPT, 0, GREEDY)
    cuts = [7, 20]
    wanted = Verification(
        [PROMPT[-1], *draft], base - 1, [base + cut for cut in cuts], [60], score=LOG_ODDS,
        drafted=base,
    )  # fmt: skip
    found = target.verify(1, wanted).evidence
    # A quarter of 30 tokens is 8.
    asked = set(np.argsort(own)[:8].tolist())
    rows = [log_softmax(logits(pair[1], PROMPT + draft[:i], slot=0)) for i in range(20)]
    said = [rows[i][draft[i]] if i in asked else own[i] for i in range(20)]
    unlike = [i in asked and rows[i].argmax() != draft[i] for i in range(20)]
    assert found is not None and 0 < sum(unlike) < len(draft)

    def column(name: str) -> list[float]:
        return found[:, EVIDENCE.index(name)].tolist()

    assert column("draft_tokens") == [7, 20]
    assert column("draft_disagreements") == [sum(unlike[:7]), sum(unlike)]
    assert column("draft_log_likelihood") == pytest.approx([sum(said[:7]), sum(said)], abs=2e-3)
    assert column("segment_least_log_likelihood") == pytest.approx(
        [min(said[:7]), min(said[7:])], abs=2e-3
    )
    entropy = [-(np.exp(row) * row).sum() if i in asked else 0 for i, row in enumerate(rows)]
    assert column("segment_entropy")[1] == pytest.approx(sum(entropy[7:]), abs=2e-3)


def test_a_judges_answer_is_not_rounded_to_bfloat16() -> None:
    g = torch.Generator().manual_seed(0)
    table = (torch.randn(40, 64, generator=g) / 4).bfloat16()
    hidden = torch.randn(6, 64, generator=g).bfloat16() * 8
    words = torch.tensor(WORDS)
    found = logits_of({"head": table}, hidden, words)
    exact = hidden.double() @ table[list(WORDS)].double().T
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-4 < (exact.bfloat16() - exact).abs().max()
    capped = logits_of({"embed": table}, hidden, words, 5.0)
    assert capped.double().allclose(5 * (exact / 5).tanh(), atol=1e-4)


def test_verdicts_of_bfloat16_are_those_of_its_logits_but_for_their_rounding(
    tmp_path: Path,
) -> None:
    save(tmp_path, "llama")
    s = Settings(model=str(tmp_path), max_len=64, prefill="16", verify="24x2", dtype="bfloat16")
    session, target, _, _ = eager(s, WORDS)
    target.prefill(0, PROMPT, 0, GREEDY)
    found = target.verify(0, Verification([7, 8, 9], 5, [6, 8], [60]))
    scores = session.graph("target.verify", len=24, cuts=2)._outputs["logits"][:, list(WORDS)]
    odds = np.log(found.verdicts) - np.log1p(-np.array(found.verdicts))
    assert odds == pytest.approx((scores[:, 0] - scores[:, 1]).tolist(), abs=0.02)
    assert odds.tolist() != (scores[:, 0] - scores[:, 1]).tolist()


def test_without_a_score_verdicts_are_the_bits_of_the_judges_answer(pair: Loaded) -> None:
    session, target, _ = pair
    target.prefill(0, PROMPT, 0, GREEDY)
    for score in (None, LOG_ODDS):
        wanted = Verification(list(range(20, 36)), 5, [9, 13, 17, 21], [60, 61], score=score)
        found = target.verify(0, wanted)
        chosen = session.graph("target.verify", len=60, cuts=4)._outputs["logits"][:, list(WORDS)]
        assert found.verdicts == chosen.softmax(-1)[:, 0].tolist()
        assert (found.evidence is None) == (score is None)


def test_passes_without_evidence_refuse_a_score(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    s = Settings(model=str(tmp_path), max_len=64, prefill="16", verify="24x2", evidence="0")
    session, target, _, _ = eager(s, WORDS)
    assert "draft.likelihood" not in session.tensors
    target.prefill(0, PROMPT, 0, GREEDY)
    assert len(target.verify(0, Verification([7, 8], 5, [7], [60])).verdicts) == 1
    with pytest.raises(UsageError, match="no evidence"):
        target.verify(0, Verification([7, 8], 5, [7], [60], score=LOG_ODDS, drafted=5))


def test_passes_with_the_evidence_of_before_give_the_judges_answer_alone(tmp_path: Path) -> None:
    """Bundles of then have no setting of its share, and other columns."""
    save(tmp_path, "llama")
    s = Settings(model=str(tmp_path), max_len=64, prefill="16", verify="24x2")
    session, target, _, _ = eager(s, WORDS)
    del session.settings["evidence_share"]
    older, _ = open_models(session)
    wanted = Verification([7, 8], 5, [7], [60])
    for one in (target, older):
        one.prefill(0, PROMPT, 0, GREEDY)
    assert older.verify(0, wanted).verdicts == target.verify(0, wanted).verdicts
    with pytest.raises(UsageError, match="no evidence"):
        older.verify(0, Verification([7, 8], 5, [7], [60], score=LOG_ODDS, drafted=5))


@pytest.mark.parametrize("share", [0.0, 1.5, -0.2])
def test_an_unfit_share_of_evidence_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="evidence-share"):
        Settings(model="none", evidence_share=share)


@pytest.mark.parametrize("evidence", ["x", "0,8", "8", "8,9,10", "-1"])
def test_an_unfit_list_of_evidence_is_refused(evidence: str) -> None:
    with pytest.raises(UsageError, match="evidence"):
        Settings(model="none", verify="24x2,60x4", evidence=evidence)


@given(st.integers(1, 3000), st.integers(1, 64))
def test_what_is_asked_about_fills_tiles_or_is_all(count: int, cuts: int) -> None:
    found = whole_tiles(count, cuts)
    assert found == count or (found + cuts) % 128 == 0
    assert 0.95 * count <= found <= count
    assert whole_tiles(256, 8) == 248 and whole_tiles(254, 8) == 248 and whole_tiles(30, 4) == 30
