"""The trained pair of benchmarks/arith: real drafts, real verdicts, a real head, on the CPU."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import eager, logits, opened

from benchmarks.arith import bundles, drive, judged, task
from benchmarks.arith.generation import first_wrong
from benchmarks.arith.network import Network, Size
from benchmarks.arith.vocabulary import JUDGEMENT, tokenizer
from benchmarks.report import Report
from parse_runtime.calibration.interval import share
from parse_runtime.capture.record import Settings
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.loading import Loaded, load

PROBLEMS = drive.draw(6, seed=77)


def settings(**changes: object) -> Settings:
    values: dict[str, object] = {
        "model": str(bundles.WEIGHTS / "target"), "draft": str(bundles.WEIGHTS / "draft"),
        "max_len": 208, "slots": 2, "prefill": "16,64", "verify": "192x12",
        "judge_prompt": JUDGEMENT, "threshold": 0.5, "cut_at": "sentence", "stride": 8,
        "max_rounds": 8, "resume_tokens": task.LINE, **changes,
    }  # fmt: skip
    return Settings(**values)  # type: ignore[arg-type]


def loaded(chosen: Settings) -> Loaded:
    words = (tokenizer().token_to_id("Yes"), tokenizer().token_to_id("No"))
    return load(opened(chosen, words))


@pytest.fixture(scope="module")
def pair() -> Loaded:
    return loaded(settings())


@pytest.fixture(scope="module")
def alone(pair: Loaded) -> list[str]:
    run = drive.answer(pair, PROBLEMS, 2, {"max_rounds": 0})
    return [outcome.text for outcome in run.outcomes]


def test_the_target_solves_problems(alone: list[str]) -> None:
    right = [text == problem.solution for text, problem in zip(alone, PROBLEMS, strict=True)]
    assert sum(right) >= 5


def test_parse_gives_right_answers_from_drafts(pair: Loaded, alone: list[str]) -> None:
    run = drive.answer(pair, PROBLEMS, 2, {})
    right = [o.text == p.solution for o, p in zip(run.outcomes, PROBLEMS, strict=True)]
    assert sum(right) >= 5
    assert sum(outcome.statistics.accepted for outcome in run.outcomes) > sum(map(len, alone)) / 3


def test_verdicts_tell_right_prefixes_from_wrong_ones(pair: Loaded) -> None:
    prompts, target = pair.prompts, pair.target
    encode, chat = prompts.target.tokenizer.encode, prompts.target.chat
    suffix = encode(chat.judge_suffix("", JUDGEMENT))
    for problem in PROBLEMS[:3]:
        prompt, answer = encode(chat.prompt(problem.question)), encode(problem.solution)
        place = 2 * task.LINE + 12
        wrong = [*answer]
        wrong[place] = encode(str((int(problem.solution[place]) + 3) % 10))[0]
        for tokens, least, most in ((answer, 0.5, 1.0), (wrong, 0.0, 0.5)):
            cuts = [len(prompt) + line * task.LINE for line in (3, 4, 5)]
            found = target.verify(0, Verification([*prompt, *tokens], 0, cuts, suffix))
            assert all(least <= verdict <= most for verdict in found.verdicts), found


def test_the_head_speeds_the_target_and_changes_nothing(alone: list[str]) -> None:
    chosen = settings(eagle=str(bundles.WEIGHTS / "eagle3"), eagle_depth=4)
    run = drive.answer(loaded(chosen), PROBLEMS[:3], 2, {"max_rounds": 0})
    assert [outcome.text for outcome in run.outcomes] == alone[:3]
    for outcome in run.outcomes:
        counts = outcome.statistics
        assert counts.advanced / counts.advances > 2


def test_logits_are_those_of_transformers() -> None:
    from transformers import AutoModelForCausalLM

    _, target, _, _ = eager(settings())
    oracle = AutoModelForCausalLM.from_pretrained(bundles.WEIGHTS / "target", dtype=torch.float32)
    rows, lengths = task.prompts(task.draw(1, torch.Generator().manual_seed(1)))
    tokens = rows[0, : lengths[0]].tolist()
    with torch.no_grad():
        expected = oracle(torch.tensor([tokens])).logits[0, -1]
    found = torch.from_numpy(logits(target, tokens))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_an_exported_network_gives_its_own_logits(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = Network(Size(layers=3, hidden=64, intermediate=96, heads=2, kv_heads=1))
    network.to(torch.bfloat16).float()
    network.save(tmp_path)
    chosen = Settings(
        model=str(tmp_path), max_len=64, prefill="32", verify="16x2", judge_prompt="?"
    )
    _, target, _, _ = eager(chosen)
    tokens = torch.randint(5, 250, (1, 20))
    with torch.no_grad():
        hidden, _ = network(tokens, torch.arange(20)[None], None)
        expected = network.lm_head(hidden)[0, -1]
    found = torch.from_numpy(logits(target, tokens[0].tolist()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@given(st.integers(0, 2**31))
def test_solutions_are_right(seed: int) -> None:
    for problem in drive.draw(3, seed):
        value, *parts = problem.question.split(" ")
        lines = problem.solution.split("\n")
        for part, line in zip(parts, lines, strict=False):
            # Left to right, modulo 1000, written out.
            result = f"{eval(f'{int(value)}{part[1]}{int(part[2:])}') % 1000:03}"
            assert line == f"{part[0]} {value}{part[1:]}={result}"
            value = result
        assert lines[-1] == f"#{value}"
        assert task.grade(problem.solution) == problem.number == int(value)


@given(st.integers(0, 2**31))
def test_batches_show_a_suffix_its_own_prefix_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    problems = task.draw(4, generator)
    answers = judged.corrupted(problems, generator)
    wrong = first_wrong(problems, answers)
    batch = judged.batch(problems, answers, generator)
    _, lengths = task.prompts(problems)
    yes, s, n = tokenizer().token_to_id("Yes"), len(judged.SUFFIX), judged.SHARED
    for b in range(4):
        for cut in range(judged.CUTS):
            last = n + (cut + 1) * s - 1
            seen = (batch.mask[b, 0, last] == 0).nonzero()[:, 0]
            below = int((seen < n).sum())
            assert seen.tolist() == [*range(below), *range(last - s + 1, last + 1)]
            assert batch.positions[b, last] == below + s - 1
            right = below - int(lengths[b]) <= int(wrong[b])
            assert (batch.labels[b, last] == yes) == right


def test_intervals_hold_the_share() -> None:
    found = share(40, 50)
    assert (found["low"], found["high"]) == (
        pytest.approx(0.6696, abs=1e-3),
        pytest.approx(0.8876, abs=1e-3),
    )
    assert share(0, 10)["low"] == 0 and share(0, 0)["count"] == 0


def test_a_target_that_keeps_nothing_still_judges(pair: Loaded, alone: list[str]) -> None:
    never = replace(pair, target=drive.Rejecting(pair.target))
    run = drive.answer(never, PROBLEMS[:1], 1, {"max_rounds": 1})
    assert run.outcomes[0].text == alone[0]
    assert run.outcomes[0].statistics.accepted == 0 and run.outcomes[0].statistics.verdicts


def test_parts_that_are_not_run_keep_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    Report(path, {"device": "a GPU"}).save("verdicts", {"by_cuts": 1})
    Report(path, {"device": "CPU"}).save("sweep", {"rows": 2})
    assert json.loads(path.read_text()) == {
        "verdicts": {"device": "a GPU", "by_cuts": 1},
        "sweep": {"device": "CPU", "rows": 2},
    }
