"""Real passes over few blocks: what they answer, share and keep is what they do with many."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, eager, quiet, save, save_head

from foundryc.recorder import Recorder
from foundryrt.errors import UsageError
from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.record import record
from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.prompts import Ending, Prompts, Raw, TextFormat
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import translation
from parse_runtime.signature.sizes import blocks_of

MAX_LEN, COMMON = 88, "the same words at the beginning of all of them: "
ENDLESS = Ending(ignore_stops=True)
WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "draft": {"draft": "draft", "speculate": "draft", "eagle_depth": 3},
    "chain": {"model": "quiet", "eagle": "head", "eagle_depth": 5},
    "tree": {"model": "quiet", "eagle": "head", "eagle_depth": 3, "eagle_width": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    window = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    for name in ("target", "quiet"):
        save(folder / name, "qwen3", **window)
    quiet(folder / "quiet", 0.01)
    save(folder / "draft", "llama", num_hidden_layers=1)
    save_head(folder / "head", folder / "quiet", good=True)
    return folder


def opened(
    folder: Path, way: str, kv_tokens: int, sharing: str, prefill: str = "8,24",
    kv_most: int = 0, grow: Mapping[str, int] | None = None,
) -> tuple[EagerSession, Scheduler, Prompts]:  # fmt: skip
    named = {k: str(folder / str(v)) if k in ("model", "draft", "eagle") else v
             for k, v in {"model": "target", **WAYS[way]}.items()}  # fmt: skip
    chosen = Settings(
        max_len=MAX_LEN, slots=3, decode="1,3", prefill=prefill, verify="48x3",
        kv_tokens=kv_tokens, kv_most=kv_most, judge_prompt="ok?", **named,
    )  # fmt: skip
    session, target, draft, model = eager(chosen, (5, 9), grow=grow)
    text = TextFormat(model.text.tokenizer, model.text.chat)
    prompts = Prompts(text, text, translation(text, text, "refuse"))
    return session, Scheduler(target, draft, MAX_LEN, sharing), prompts


def answers(scheduler: Scheduler, prompts: Prompts) -> list[Outcome]:
    """Of requests of every kind, which begin alike, and of which more run than blocks hold."""
    found = []
    for i in range(7):
        rules = Rules(
            stride=5, max_rounds=i % 3, threshold=0.5 * (i % 2), resume_tokens=3, judge_prompt="ok?"
        )
        sampling = Sampling(0.7, 0.9, i) if i % 2 else GREEDY
        request = prompts.request(Raw(f"{COMMON}{i}"), 30, sampling, rules, ENDLESS)
        found.append(Outcome(request, prompts.text([])))
        scheduler.submit(request, found[-1])
        scheduler.step()
    while scheduler.step():
        pass
    return found


@pytest.mark.parametrize(
    ("way", "prefill"),
    # Passes of one prompt each, and of up to three.
    [("plain", "8,24"), ("draft", "8,24"), ("tree", "8,24"), ("draft", "32,96"), ("tree", "32,96")],
)
def test_answers_over_few_blocks_are_those_over_many(folder: Path, way: str, prefill: str) -> None:
    _, *many = opened(folder, way, 0, "off", prefill)
    expected = answers(*many)
    assert [outcome.error for outcome in expected] == [None] * 7
    assert sum(outcome.statistics.preempted for outcome in expected) == 0
    for sharing in ("off", "exact", "blocks"):
        _, *few = opened(folder, way, 144, sharing, prefill)
        found = answers(*few)
        for one, other in zip(found, expected, strict=True):
            assert (one.error, one.text, one.reason) == (None, other.text, other.reason)
            assert one.statistics.accepted == other.statistics.accepted
        if sharing == "off":
            assert sum(outcome.statistics.preempted for outcome in found) > 0
        # What begins the prompts is no whole pass of 96 rows.
        shares = sharing == "blocks" or (sharing == "exact" and prefill == "8,24")
        assert (sum(outcome.statistics.shared for outcome in found) > 0) == shares


@pytest.mark.parametrize("way", ["plain", "draft", "chain"])
def test_a_session_with_more_blocks_than_at_capture_answers_more_at_once(
    folder: Path, way: str
) -> None:
    held, most = 144, 3 * MAX_LEN
    few, scheduler, prompts = opened(folder, way, held, "off", kv_most=most)
    expected = answers(scheduler, prompts)
    assert sum(outcome.statistics.preempted for outcome in expected) > 0
    more = blocks_of(most) - blocks_of(held)
    grow = {name: count + more for name, count in few.rows.items()}
    assert sorted(grow) == sorted(name for name in few.tensors if name.endswith("cache"))
    _, scheduler, prompts = opened(folder, way, held, "off", kv_most=most, grow=grow)
    assert scheduler.memory.usage["target"].total == blocks_of(most)
    found = answers(scheduler, prompts)
    for one, other in zip(found, expected, strict=True):
        assert (one.error, one.text, one.reason) == (None, other.text, other.reason)
        assert one.statistics.preempted == 0


def test_on_host_a_capture_promises_no_more_blocks(folder: Path) -> None:
    settings = Settings(
        model=str(folder / "target"), max_len=MAX_LEN, prefill="32", kv_most=MAX_LEN
    )
    with (
        Recorder("host", "parse", {}) as recorder,
        pytest.raises(UsageError, match="on host the caches keep the size of the capture"),
    ):
        record(recorder, settings)


def rows(session: EagerSession, scheduler: Scheduler, slot: int, count: int) -> torch.Tensor:
    """What the target keeps of a slot's first rows."""
    table = torch.from_numpy(scheduler._target.tables.values[slot]).long()
    return session.tensors["target.cache"][table].movedim(3, 1).flatten(0, 1)[:count].clone()


def begun(scheduler: Scheduler, prompts: Prompts, texts: Sequence[str]) -> list[Outcome]:
    """Answers whose prompts are computed, one after the other."""
    found = []
    for text in texts:
        request = prompts.request(Raw(text), 9, GREEDY, Rules(max_rounds=0), ENDLESS)
        found.append(Outcome(request, prompts.text([])))
        scheduler.submit(request, found[-1])
        scheduler.step()
    return found


def test_what_is_shared_has_the_bits_of_what_is_not(folder: Path) -> None:
    """In whole passes: 48 rows of two prompts, whose others differ in number and in tokens."""
    kept = []
    for sharing in ("exact", "off"):
        session, scheduler, prompts = opened(folder, "plain", 0, sharing)
        texts = [f"{COMMON}one", f"{COMMON}another that is longer"]
        outcomes = begun(scheduler, prompts, texts)
        assert scheduler.memory.usage["target"].shared == 3 * (sharing == "exact")
        size = len(outcomes[1].request.prompt)
        kept.append([rows(session, scheduler, 0, 50), rows(session, scheduler, 1, size)])
        while scheduler.step():
            pass
        # Nobody has written into what was shared.
        assert outcomes[1].statistics.shared == 48 * (sharing == "exact")
    for one, other in zip(*kept, strict=True):
        assert torch.equal(one, other)


def test_padding_and_suffixes_leave_the_sequences_alone(folder: Path) -> None:
    """Passes of fewer rows than were captured, and verifications, beside a slot that is full."""
    session, scheduler, prompts = opened(folder, "plain", 0, "off")
    target = scheduler._target
    for slot in (0, 1):
        target.prefill(slot, [slot + 3] * MAX_LEN, 0, GREEDY)
    before = [rows(session, scheduler, slot, MAX_LEN) for slot in (0, 1)]
    rules = Rules(stride=4, threshold=1.0, judge_prompt="ok?")
    target.prefill(2, [5, 6, 7], 0, GREEDY)
    target.decode(Batch([2], [9], [3], [GREEDY]))
    target.tables.release(2)
    scheduler._free[:] = [2]
    request = prompts.request(Raw("hello"), 20, GREEDY, rules, ENDLESS)
    scheduler.submit(request, outcome := Outcome(request, prompts.text([])))
    while scheduler.step():
        pass
    assert outcome.error is None and outcome.statistics.verdicts
    for slot, held in zip((0, 1), before, strict=True):
        assert torch.equal(rows(session, scheduler, slot, MAX_LEN), held)


@pytest.mark.parametrize("way", ["chain", "tree"])
def test_a_head_drafts_in_rows_that_are_there(folder: Path, way: str) -> None:
    """Behind what is accepted, and across the ends of blocks."""
    drafted = []
    for ample in (True, False):
        session, scheduler, _ = opened(folder, way, 0, "off")
        target = scheduler._target
        slots = [0, 1, 2]
        for slot in slots:
            if ample:
                target.tables.reserve(slot, MAX_LEN)
            target.prefill(slot, [slot + 3] * (slot + 1), 0, GREEDY)
        last, ends, found = [7, 8, 9], [1, 2, 3], []
        while max(ends) < MAX_LEN - 8:
            for i, tokens in enumerate(target.extend(Batch(slots, last, ends, [GREEDY] * 3))):
                last[i], ends[i] = int(tokens[-1]), ends[i] + len(tokens)
            found.append(session.tensors["target.tree"].clone())
        drafted.append(torch.stack(found))
    assert torch.equal(*drafted)
