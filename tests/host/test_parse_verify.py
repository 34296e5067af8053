"""One masked pass against separate prefills: verdicts, their logits, and the cache it leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, VOCAB, eager, logits, require_smollm2, save

from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.judge import SELECTIONS, longest_accepted
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.kernels.verdicts import select
from parse_runtime.signature.selection import SelectionRule
from parse_runtime.text.tokenizer import Tokenizer

Loaded = tuple[EagerSession, GraphTarget, GraphDecoder, int]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("tiny")
    save(folder, "qwen3")
    s = Settings(model=str(folder), max_len=64, prefill="16,64", verify="24x2,80x6")
    session, target, draft, _ = eager(s, (5, 9))
    return session, target, draft, VOCAB


def held(session: EagerSession, model: GraphDecoder) -> torch.Tensor:
    """A copy of the first slot's rows of all layers, [rows, layers, 2, kv_heads, head_dim]."""
    table = torch.from_numpy(model.tables.values[0]).long()
    cache = session.tensors[f"{model._signature.model}.cache"]
    return cache[table].movedim(3, 1).flatten(0, 1)


def check(
    loaded: Loaded,
    words: tuple[int, int],
    prompt: list[int],
    draft: list[int],
    suffix: list[int],
    cuts: list[int],
) -> None:
    """Every verdict of one pass is that of a prefill of prompt, draft[:cut], suffix."""
    session, target, separate, _ = loaded
    target.prefill(0, prompt, 0, GREEDY)
    base, need = len(prompt), len(draft) + len(suffix) * len(cuts)
    absolute = [base + cut for cut in cuts]
    verdicts = target.verify(0, Verification(draft, base, absolute, suffix)).verdicts
    rows, most = next(v for v in target._verify if v[0] >= need and v[1] >= len(cuts))
    seen = session.graph("target.verify", len=rows, cuts=most).read("logits")
    target_cache = held(session, target)
    for i, cut in enumerate(cuts):
        expected = logits(separate, prompt + draft[:cut] + suffix)
        assert np.abs(seen[i] - expected).max() <= 1e-4 * np.abs(expected).max()
        yes, no = (np.exp(float(expected[word]) - expected.max()) for word in words)
        assert verdicts[i] == pytest.approx(yes / (yes + no), abs=1e-4)
        fresh, kept = held(session, separate)[: base + cut], target_cache[: base + cut]
        assert (fresh - kept).abs().max() <= 1e-4 * fresh.abs().max()


tokens = st.integers(0, VOCAB - 1)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    prompt=st.lists(tokens, min_size=1, max_size=20),
    draft=st.lists(tokens, min_size=1, max_size=30),
    suffix=st.lists(tokens, min_size=1, max_size=8),
    data=st.data(),
)
def test_one_pass_equals_separate_prefills(
    tiny: Loaded, prompt: list[int], draft: list[int], suffix: list[int], data: st.DataObject
) -> None:
    cut = st.integers(1, len(draft))
    cuts = sorted(data.draw(st.sets(cut, min_size=1, max_size=6)))
    check(tiny, (5, 9), prompt, draft, suffix, cuts)


def test_too_large_a_verification_is_spread_over_passes(tiny: Loaded) -> None:
    _, target, separate, _ = tiny
    prompt, draft, suffix = [3, 1, 4], list(range(40, 80)), [7, 8, 9]
    target.prefill(0, prompt, 0, GREEDY)
    cuts = [len(prompt) + cut for cut in range(4, 41, 2)]
    wanted = Verification(draft, len(prompt), cuts, suffix, 0.4, SelectionRule.LONGEST_ACCEPTED)
    found = target.verify(0, wanted)
    assert found.kept == longest_accepted(cuts, found.verdicts, 0.4)
    for cut, verdict in zip(cuts, found.verdicts, strict=True):
        scores = logits(separate, (prompt + draft)[:cut] + suffix)
        yes, no = np.exp(scores[5] - scores.max()), np.exp(scores[9] - scores.max())
        assert verdict == pytest.approx(yes / (yes + no), abs=1e-4)


judged_draft = st.tuples(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, float("nan")]), min_size=6, max_size=6),
    st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from(list(SELECTIONS)),
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(judged_draft, min_size=1, max_size=3))
def test_the_graph_selects_as_the_rules_say(
    drafts: list[tuple[list[float], int, float, SelectionRule]],
) -> None:
    kept = select(*map(torch.tensor, zip(*drafts, strict=True)))
    for found, (verdicts, count, threshold, rule) in zip(kept.tolist(), drafts, strict=True):
        judged = list(range(1, count + 1))
        assert found == SELECTIONS[rule](judged, verdicts[:count], threshold)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Loaded, Tokenizer, object]:
    require_smollm2()
    s = Settings(model="smollm2", max_len=192, prefill="64,160", verify="224x5")
    session, target, draft, model = eager(s, (10539, 5230))
    tokenizer = model.text.tokenizer
    return (session, target, draft, 49152), tokenizer, model.text.chat


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(cuts=st.sets(st.integers(1, 60), min_size=2, max_size=5).map(sorted))
def test_one_pass_equals_separate_prefills_on_real_weights(smollm2, cuts) -> None:
    loaded, tokenizer, chat = smollm2
    question = "Name three planets of the solar system and say one thing about each of them."
    answer = (
        "Mercury is the closest planet to the Sun. Venus is the hottest one, because its thick "
        "atmosphere keeps the heat. Mars is red since iron in its soil has rusted, and it has two "
        "small moons, Phobos and Deimos, which may be captured asteroids. Saturn has rings."
    )
    draft = tokenizer.encode(answer)[:60]
    suffix = tokenizer.encode(chat.judge_suffix(question, "Is your answer correct? Yes or No."))
    prompt = tokenizer.encode(chat.prompt(question))
    check(loaded, (10539, 5230), prompt, draft, suffix, cuts)


def test_real_weights_answer_sensibly(smollm2) -> None:
    (_, target, _, _), tokenizer, chat = smollm2
    sequence = tokenizer.encode(chat.prompt("What is the capital of France?"))
    token = target.prefill(0, sequence, 0, GREEDY)
    answer: list[int] = []
    while token not in chat.stops and len(answer) < 20:
        answer.append(token)
        position = len(sequence) + len(answer) - 1
        token = target.decode(Batch([0], [token], [position], [GREEDY]))[0]
    assert "Paris" in tokenizer.decode(answer)


def test_real_tokenizer_round_trips(smollm2) -> None:
    _, tokenizer, _ = smollm2
    text = "Hello world 12345!  \n\n I'm"
    # As transformers tokenizes with the same file.
    assert tokenizer.encode(text + "<|im_end|>\n") == [
        19556, 905, 216, 33, 34, 35, 36, 37, 17, 256, 1116, 339, 5248, 2, 198,
    ]  # fmt: skip
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.single("Yes") == 10539 and tokenizer.single("No") == 5230
