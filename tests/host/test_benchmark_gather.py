"""Gathered drafts of a tiny pair, and what is replayed of them, against the engine."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import save

from benchmarks.judge import ask, fly, lines, replay
from benchmarks.judge.gather import Gatherer
from foundryrt.session import Session
from parse_runtime.calibration.answers import Question
from parse_runtime.calibration.collect import Taken, collect
from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import Loaded, load
from parse_runtime.models.loose import LooseRule
from parse_runtime.weights.source import open_model

ASKED = [Question(f"question {i}") for i in range(8)]
LENGTH, STRIDE, DEPTH = 20, 4, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair that agrees now and then: the draft is the target with other weights beside it."""
    place = tmp_path_factory.mktemp("gather")
    save(place / "target", "llama", num_hidden_layers=2)
    save(place / "draft", "llama", num_hidden_layers=1)
    return place


def bundle(folder: Path, **more: Any) -> Path:
    settings = Settings(
        model=str(folder / "target"), draft=str(folder / "draft"), max_len=96, slots=2,
        prefill="32", verify="96x6", judge_prompt="ok?", yes="y", no="n", stride=STRIDE,
        speculate="draft", eagle_depth=DEPTH, evidence_share=1.0, **more,
    )  # fmt: skip
    path = folder / f"{len(more)}.fdy"
    capture(settings, path)
    return path


@pytest.fixture(scope="module")
def pair(folder: Path) -> Gatherer:
    models = [open_model(str(folder / name)) for name in ("target", "draft")]
    return Gatherer(*models, "float32", LENGTH, STRIDE, "ok?", ("y", "n"))


@pytest.fixture(scope="module")
def gathered(pair: Gatherer) -> list[lines.Line]:
    with torch.inference_mode():
        return list(pair.gather(ASKED))


def answered(loaded: Loaded, question: Question, **rules: Any) -> Taken:
    chosen = loaded.rules.changed(rules)
    request = loaded.prompts.request(question.prompt, LENGTH, Sampling(), chosen)
    outcome = Taken(request, loaded.prompts.text([]))
    scheduler = Scheduler(loaded.target, loaded.draft)
    scheduler.submit(request, outcome)
    while scheduler.step():
        pass
    return outcome


def test_samples_are_those_that_calibration_collects(
    folder: Path, pair: Gatherer, gathered: list[lines.Line]
) -> None:
    found = lines.samples(gathered, pair.text.tokenizer)
    with Session.open(bundle(folder)) as session:
        loaded = load(session)
        wanted = collect(
            loaded, ASKED, loaded.rules, LENGTH, lambda n, what: nullcontext(lambda done: None)
        )
    known = 0
    for one, other in zip(found.drafts, wanted.drafts, strict=True):
        assert one.cuts == other.cuts and one.target_right == other.target_right
        assert one.evidence == pytest.approx(other.evidence, abs=2e-3)
        assert set(one.right) == set(one.cuts)
        assert {cut: one.right[cut] for cut in other.right} == other.right
        known += len(other.right)
    assert known > 2 * len(ASKED) and found.right.any() and not found.right.all()


def test_passes_are_those_of_the_engine(
    folder: Path, pair: Gatherer, gathered: list[lines.Line]
) -> None:
    kept = set()
    with Session.open(bundle(folder)) as session:
        loaded = load(session)
        for question, line in zip(ASKED, gathered, strict=True):
            own = answered(loaded, question, max_rounds=0)
            found = replay.alone(line, True, DEPTH)
            assert line["behind"]["0"]["tokens"] == own.taken
            assert (found.tokens, found.passes) == (own.statistics.tokens, own.statistics.advances)
            for threshold in (0.0, 0.5, 0.9, 1.0):
                engine = answered(loaded, question, threshold=threshold).statistics
                course = replay.parse(line, True, engine.accepted, DEPTH)
                kept.add(engine.accepted)
                assert (course.tokens, course.passes) == (engine.tokens, engine.advances)
                assert course.cuts == len(engine.verdicts[0])
    assert len(kept) > 2


def test_a_question_is_asked_again_behind_the_same_draft(
    pair: Gatherer, gathered: list[lines.Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "ASKED", {"same": "ok?", "other": "so?"})
    monkeypatch.setattr(ask, "BARE", "?")
    found = lines.samples(gathered, pair.text.tokenizer)
    with torch.inference_mode():
        said = [ask.ask(pair, line) for line in gathered]
    for line, odds in zip(gathered, said, strict=True):
        assert odds["same"] == pytest.approx(line["log_odds"], abs=1e-3)
        assert odds["other"] != odds["same"] != odds["bare"]
    others = ask.answered(found, [odds["other"] for odds in said])
    assert others.evidence[:, 0] == pytest.approx(
        [odds["other"][index] for (d, index) in others.rows for odds in [said[d]]]
    )
    assert (others.evidence[:, 1:] == found.evidence[:, 1:]).all()


@pytest.mark.parametrize("window", [0, 2])
def test_loose_answers_are_those_of_the_engine(folder: Path, pair: Gatherer, window: int) -> None:
    rule = LooseRule(window, 0.0) if window else None
    with torch.inference_mode():
        found = list(fly.answers(pair, ASKED, rule, DEPTH))
    with Session.open(
        bundle(folder, **{"fly_window": 2, "fly_entropy": 0.0} if window else {})
    ) as session:
        loaded = load(session)
        for question, answer in found:
            engine = answered(loaded, question, max_rounds=0)
            assert answer.tokens == engine.taken
            assert answer.passes == engine.statistics.advances


def test_a_fit_never_judges_what_it_was_fitted_to(pair: Gatherer) -> None:
    """Labels that evidence says nothing about: a fit keeps right drafts no more than wrong ones."""
    from parse_runtime.calibration.collect import Draft, Samples
    from parse_runtime.engine.rules import Rules
    from parse_runtime.signature.evidence import EVIDENCE

    g = np.random.default_rng(3)
    drafts = [
        Draft([4, 8], g.normal(size=(2, len(EVIDENCE))).astype(np.float32),
              {4: n % 2 == 0, 8: n % 2 == 0}, n % 3 == 0)
        for n in range(60)
    ]  # fmt: skip
    kept = replay.kept_by_fits(Samples(drafts), 0.2, Rules())
    assert kept.shape == (replay.REPEATS, 60) and set(np.unique(kept)) <= {0, 4, 8}
    whole = kept == 8
    assert abs(whole[:, ::2].mean() - whole[:, 1::2].mean()) < 0.2
