"""Calibrating a tiny pair, and how its bundle then runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import save

from foundryc.attach import attach
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import UsageError
from foundryrt.session import Session
from parse_runtime.calibration.answers import Question, agree
from parse_runtime.calibration.collect import Samples, Taken, collect
from parse_runtime.capture.record import Settings
from parse_runtime.commands.run import Calibrating, Options, calibrate, run
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.calibration import FILE, Calibration
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import Loaded, load
from parse_runtime.serve import Serving
from parse_runtime.serve.body import TextBody
from parse_runtime.serve.served import served
from parse_runtime.signature.evidence import EVIDENCE

ASKED = [Question(f"question {i}", "never said by any") for i in range(40)]
LENGTH = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair whose whole drafts are judged, at no cut before their end."""
    folder = tmp_path_factory.mktemp("calibrate")
    save(folder / "target", "llama", num_hidden_layers=2)
    save(folder / "draft", "llama", num_hidden_layers=1)
    settings = Settings(
        model=str(folder / "target"), draft=str(folder / "draft"), max_len=144, slots=8, decode="8",
        prefill="32", verify="64x4", judge_prompt="ok?", yes="y", no="n", stride=LENGTH,
        speculate="draft", eagle_depth=2,
    )  # fmt: skip
    capture(settings, folder / "pair.fdy")
    return folder / "pair.fdy"


def collected(bundle: Path, questions: list[Question], stride: int) -> Samples:
    with Session.open(bundle) as session:
        loaded = load(session)
        rules = loaded.rules.changed({"stride": stride})
        return collect(
            loaded, questions, rules, LENGTH, lambda total, what: nullcontext(lambda done: None)
        )


def taken(loaded: Loaded, prompt: list[int], length: int, **rules: Any) -> Taken:
    """An answer to tokens."""
    chosen = loaded.rules.changed(rules)
    request = loaded.prompts.request("", length, Sampling(), chosen)
    # A random model writes tokens that its tokenizer does not have.
    request = replace(request, prompt=prompt, draft_prompt=prompt)
    outcome = Taken(request, loaded.prompts.text([]))
    scheduler = Scheduler(loaded.target, loaded.draft)
    scheduler.submit(request, outcome)
    while scheduler.step():
        pass
    return outcome


def fitted(bundle: Path, asked: Path) -> dict[str, Any]:
    """As the command does, in this process."""
    with Session.open(bundle) as session:
        options = Calibrating(input=str(asked), max_new_tokens=LENGTH)
        files, report = calibrate(session, options, True)
    assert not attach(bundle, files)
    return report


def answered(bundle: Path, **options: Any) -> dict[str, Any]:
    with Session.open(bundle) as session:
        chosen = Options(prompt="question 3", max_new_tokens=LENGTH, **options)
        return dict(run(session, chosen, True))


def asking(path: Path, bundle: Path, right: np.ndarray) -> Path:
    """Questions that the drafts marked answer rightly."""
    lines = []
    with Session.open(bundle) as session:
        loaded = load(session)
        options = Options(input=str(path), max_new_tokens=LENGTH, threshold=0.0)
        path.write_text("\n".join(json.dumps({"prompt": q.prompt}) for q in ASKED))
        results = run(session, options, True)["results"]
        assert loaded.rules == Rules.of(session.settings)
    for question, result, flag in zip(ASKED, results, right, strict=True):
        answer = result["text"] if flag else question.answer
        lines.append({"prompt": question.prompt, "answer": answer})
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_prefixes_are_labelled_by_what_the_target_says_behind_them(bundle: Path) -> None:
    """Against the target behind each prefix alone."""
    samples = collected(bundle, [Question(q.prompt) for q in ASKED[:8]], 3)
    assert len(samples.rows) > 16 and not samples.right.all()
    with Session.open(bundle) as session:
        loaded = load(session)
        for question, draft in zip(ASKED, samples.drafts, strict=False):
            prompt = loaded.prompts.encode(question.prompt)
            own = taken(loaded, prompt, LENGTH, max_rounds=0)
            written = taken(loaded, prompt, LENGTH, threshold=0.0)
            assert draft.cuts == [3, 6, 9, 12] and draft.target_right
            assert draft.right[12] == agree(written.text, own.text)
            for cut in set(draft.right) - {12}:
                begun = written.taken[:cut]
                rest = taken(loaded, prompt + begun, LENGTH - cut, max_rounds=0)
                text = loaded.prompts.target.tokenizer.decode(begun + rest.taken)
                assert draft.right[cut] == agree(text, own.text)


def test_a_pair_that_separates_judges_by_its_fit(bundle: Path, tmp_path: Path) -> None:
    samples = collected(bundle, ASKED, LENGTH)
    column = samples.evidence[:, EVIDENCE.index("draft_log_likelihood")]
    asked = asking(tmp_path / "q.jsonl", bundle, column > np.median(column))
    copy = Path(shutil.copy(bundle, tmp_path / "good.fdy"))
    report = fitted(copy, asked)
    assert report["separates"] and report["auc"] > 0.75
    # The judge of random weights adds nothing, and is asked again where the fit is left aside.
    assert report["judge_prompt"] == ""
    with Bundle.open(bundle) as before, Bundle.open(copy) as after:
        after.verify()
        assert after.manifest == before.manifest and after.digest != before.digest
        assert set(after.files) == {*before.files, FILE}
        assert after.sections[: len(before.sections)] == before.sections
    ran, plain = answered(copy), answered(bundle)
    assert answered(copy, calibrated=False)["verdicts"] == plain["verdicts"] != ran["verdicts"]
    assert ran["rounds"] == 1


def test_a_request_may_leave_the_calibration_aside(bundle: Path, tmp_path: Path) -> None:
    """Of a calibration without a question: the captured one is asked again."""
    with Session.open(bundle) as session:
        found = Calibration(
            weights={}, offset=3.0, judge_prompt="", threshold=0.5, auc=0.9,
            models=session.weights_digest,
        )  # fmt: skip
    copy = Path(shutil.copy(bundle, tmp_path / "unasked.fdy"))
    assert not attach(copy, {FILE: found.packed()})
    aside = {"prompt": "question 3", "parse": {"calibrated": False}}
    (tmp_path / "aside.jsonl").write_text(json.dumps(aside))
    options = Options(input=str(tmp_path / "aside.jsonl"), max_new_tokens=LENGTH)
    with Session.open(copy) as session:
        (result,) = run(session, options, True)["results"]
        assert result["verdicts"] == answered(bundle)["verdicts"] != answered(copy)["verdicts"]
        of_server = served(session, load(session), Serving())
        try:
            body = TextBody(prompt="question 3", max_tokens=LENGTH, parse=aside["parse"])
            (request,) = body.requests(of_server.prompts, of_server.rules, of_server.engine.max_len)
        finally:
            of_server.engine.close()
    assert request.suffix and request.score is None and request.rules.judge_prompt == "ok?"


def test_a_pair_that_does_not_separate_says_so_and_speculates(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = np.random.default_rng(5).permutation(np.arange(len(ASKED)) % 2 == 0)
    asked = asking(tmp_path / "q.jsonl", bundle, chosen)
    copy = Path(shutil.copy(bundle, tmp_path / "bad.fdy"))
    command = [sys.executable, "-c", "from foundryc.cli import main; main()", "calibrate"]
    command += [str(copy), "--input", str(asked), "--max-new-tokens", str(LENGTH)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "do not tell" in done.stdout, done.stderr + done.stdout
    assert answered(copy)["rounds"] == 0
    assert "with exact speculation" in capsys.readouterr().err
    assert answered(copy, max_rounds=1)["rounds"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": 3}, "at least 10"),
        ({"false_accepts": 1.0}, "share"),
        ({"input": "lines"}, "line 2"),
        ({"input": "none"}, "No such file"),
        ({"max_new_tokens": 90}, "exceed"),
        ({"questions": 10, "max_new_tokens": 2}, "fewer than"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lines").write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    with Session.open(bundle) as session, pytest.raises(UsageError, match=message):
        calibrate(session, Calibrating(**options), True)


def test_without_a_question_there_must_be_a_calibration(bundle: Path) -> None:
    with pytest.raises(UsageError, match="foundryc calibrate"):
        answered(bundle, judge_prompt="")
    with pytest.raises(UsageError, match="question"):
        Settings(model="x", judge_prompt="")
