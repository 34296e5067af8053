"""The engine over the eager passes of real decoders: batches, and pairs of unlike tokenizers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import eager, require_smollm2, save

from foundryrt.errors import UsageError
from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.outcome import Outcome
from parse_runtime.engine.prompts import Prompts, TextFormat
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import translation
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.text.translation import Retokenization, SameTokens
from parse_runtime.weights.source import open_model

SLOTS = 3


def opened(folder: Path, **changes: object) -> tuple[Scheduler, Prompts]:
    """A scheduler over eager passes of the model at `folder`, and of a draft model."""
    values = {
        "model": str(folder), "max_len": 96, "slots": SLOTS, "prefill": "16,64",
        "verify": "48x3,120x6", "judge_prompt": "ok?", **changes,
    }  # fmt: skip
    chosen = Settings(**values)  # type: ignore[arg-type]
    _, target, draft, model = eager(chosen, (5, 9))
    drafting = open_model(chosen.draft) if chosen.draft else model
    formats = [TextFormat(m.text.tokenizer, m.text.chat) for m in (model, drafting)]
    return Scheduler(target, draft), Prompts(*formats, translation(*formats, "retokenize"))


@pytest.fixture(scope="module", params=["", "draft", "shared", "mixed"])
def tiny(request, tmp_path_factory) -> tuple[Scheduler, Prompts]:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("tiny")
    save(folder, "qwen3")
    if request.param == "shared":
        return opened(folder, verify="48x3,120x6,192x6x3", prefill="16,64,192")
    if request.param == "mixed":
        return opened(folder, mixed="1,3", prefill="16,64,96")
    return opened(folder, speculate=request.param)


asked = st.tuples(
    st.text("abc ", min_size=1, max_size=12), st.integers(1, 25), st.integers(0, 2),
    st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.integers(0, 2), st.integers(0, 9),
)  # fmt: skip


def outcome(scheduler: Scheduler, prompts: Prompts, one) -> Outcome:  # type: ignore[no-untyped-def]
    text, most, rounds, threshold, two_stage, seed, _ = one
    rules = Rules(
        stride=5, max_rounds=rounds, threshold=threshold, two_stage=two_stage, resume_tokens=3
    )
    request = prompts.request(text, most, Sampling(0.7 * (seed > 0), 0.9, seed), rules)
    told = Outcome(request, prompts.text([]))
    scheduler.submit(request, told)
    return told


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(st.lists(asked, min_size=2, max_size=7))
def test_tokens_do_not_depend_on_what_else_runs(tiny, arrivals) -> None:  # type: ignore[no-untyped-def]
    scheduler, prompts = tiny
    together = []
    for one in arrivals:
        together.append(outcome(scheduler, prompts, one))
        for _ in range(one[-1]):
            scheduler.step()
    while scheduler.step():
        pass
    for one, got in zip(arrivals, together, strict=True):
        alone = outcome(scheduler, prompts, one)
        while scheduler.step():
            pass
        assert got.error is None is alone.error
        assert (got.text, got.reason) == (alone.text, alone.reason)
        assert got.statistics.accepted == alone.statistics.accepted


def trained() -> tokenizers.Tokenizer:
    """A tokenizer of another kind: words begin with a mark, trained on this repository's pages."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    pages = sorted(Path(__file__).parents[2].glob("docs/*.md"))
    alphabet = [chr(code) for code in range(32, 127)] + ["\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<end>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator((page.read_text() for page in pages), trainer)
    return inner


@pytest.fixture(scope="module")
def unlike() -> Retokenization:
    require_smollm2()
    smollm2 = open_model("smollm2").text.tokenizer
    return Retokenization(smollm2, Tokenizer(trained()), frozenset({1}))


words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
texts = st.lists(words, min_size=1, max_size=8).map(" ".join)


@settings(max_examples=100)
@given(texts, st.data())
def test_text_goes_through_both_tokenizers(
    unlike: Retokenization, text: str, data: st.DataObject
) -> None:
    answer = unlike.target.encode(text)
    assert unlike.draft.decode(unlike.to_draft(answer)) == text
    tokens = unlike.draft.encode(text)
    cut = data.draw(st.integers(0, len(tokens)))
    before, after = unlike.draft.decode(tokens[:cut]), tokens[cut:]
    known = unlike.target.encode(before)
    whole = unlike.target.decode([*known, *unlike.to_target(known, after)])
    # A word that begins where the answer ends, begins with the draft tokenizer's own space.
    assert whole.replace(" ", "") == text.replace(" ", "")


def test_half_a_character_is_left_out(unlike: Retokenization) -> None:
    tokens = unlike.target.encode("a\N{SNOWMAN WITHOUT SNOW}")
    swapped = Retokenization(unlike.draft, unlike.target, frozenset())
    assert swapped.to_target([], tokens[:-1]) == unlike.draft.encode("a")


def test_a_pair_of_unlike_tokenizers_answers(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    target, draft = tmp_path / "target", tmp_path / "draft"
    save(target, "llama")
    save(draft, "llama", vocab_size=400, eos_token_id=1)
    trained().save(str(draft / "tokenizer.json"))
    scheduler, prompts = opened(target, draft=str(draft))
    assert "re-tokenized" in capsys.readouterr().err and isinstance(
        prompts.translation, Retokenization
    )
    every, none = (
        outcome(scheduler, prompts, ("what is it?", 40, 2, threshold, False, 0, 0))
        for threshold in (0.0, 1.0)
    )
    alone = outcome(scheduler, prompts, ("what is it?", 40, 0, 0.5, False, 0, 0))
    while scheduler.step():
        pass
    assert every.error is None and every.statistics.accepted == every.statistics.drafted > 0
    assert none.statistics.accepted == 0 and none.text == alone.text
    # What was accepted is what the draft model wrote, in the target's tokens.
    assert every.statistics.tokens <= 40 and every.text != none.text


def test_unlike_tokenizers_are_refused_when_asked(unlike: Retokenization) -> None:
    chat = Chat("", {}, (2,))
    target, draft = TextFormat(unlike.target, chat), TextFormat(unlike.draft, chat)
    with pytest.raises(UsageError, match="--unlike-tokenizers retokenize"):
        translation(target, draft, "refuse")
    assert translation(target, TextFormat(unlike.target, chat), "refuse") == SameTokens(
        frozenset({2})
    )
