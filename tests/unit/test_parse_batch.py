"""Many answers together, over models of a script: nothing is lost by another's fate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.commands.jobs import Job, Refused
from parse_runtime.commands.many import answer_all
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.scheduler import Scheduler
from tests.unit.parse_fakes import Fake, mixing, request


class Letters:
    """A `StopText` whose tokens are letters."""

    ended = False

    def push(self, token: int) -> str:
        return chr(97 + token % 26)

    def rest(self) -> str:
        return ""

    def fork(self) -> Letters:
        return self


class Prompts:
    def text(self, stops: Sequence[str]) -> Letters:
        return Letters()


class Device(Fake):
    """Does something of its own for an answer with seed 13."""

    unlucky: Callable[[], None]

    def decode(self, batch: Batch) -> list[int]:
        if 13 in {sampling.seed for sampling in batch.samplings}:
            self.unlucky()
        return super().decode(batch)


BAD = Refused(UsageError("lines line 2: no JSON"))


def job(seed: int) -> Job:
    return Job(request(9, [seed + 1], seed, max_rounds=0), [])


def run(jobs: list[Job | Refused], as_json: bool, unlucky: Any = None) -> dict[str, Any]:
    target = Device(mixing(1, 997))
    target.unlucky = unlucky
    return answer_all(Scheduler(target, Fake(mixing(2))), Prompts(), jobs, as_json)  # type: ignore[arg-type]


def fails() -> None:
    raise FoundryError("the device is gone")


def interrupts() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("as_json", [False, True])
def test_a_refused_line_costs_no_other_its_answer(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run([job(1), job(3)], True)
    with pytest.raises(UsageError, match="1 of 3 prompts failed: lines line 2: no JSON"):
        run([job(1), BAD, job(3)], as_json)
    shown = capsys.readouterr().out
    texts = [result["text"] for result in whole["results"]]
    assert all(len(text) == 9 for text in texts)
    if as_json:
        report = json.loads(shown)
        assert [r.get("text") for r in report["results"]] == [texts[0], None, texts[1]]
        assert report["results"][1] == {"error": "lines line 2: no JSON"}
        assert (report["requests"], report["failed"], report["tokens"]) == (3, 1, 18)
    else:
        places = [shown.index(f"[1] {texts[0]}"), shown.index("[2] error: lines line 2"),
                  shown.index(f"[3] {texts[1]}")]  # fmt: skip
        assert places == sorted(places)


def test_a_failed_answer_is_no_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FoundryError, match="2 of 3") as caught:
        run([job(1), job(13), BAD], False, fails)
    assert caught.value.exit_code == 1
    assert "[2] error: the device is gone" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_keeps_what_is_done(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run([job(1), job(13), job(3)], as_json, interrupts)
    shown = capsys.readouterr().out
    if as_json:
        reasons = [result["finish_reason"] for result in json.loads(shown)["results"]]
        assert reasons == ["length", "cancelled", "cancelled"]
    else:
        done = run([job(1)], True)["results"][0]["text"]
        assert f"[1] {done}\n" in shown and shown.count("cancelled;") == 2
