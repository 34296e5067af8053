"""The sampler on the host: what each field does to logits, and what is said of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.sampling.processing import Processing
from parse_runtime.sampling.sampler import Sampler
from tests.unit.parse_fakes import PROMPT, STOP, VOCABULARY, Fake, Heard, mixing, request

SIZE = 12
LOGITS = np.linspace(-2, 3, SIZE).astype(np.float32)
LIKELIEST = SIZE - 1


def sampler(
    temperature: float = 0.0, seed: int = 3, top_p: float = 1.0, prompt=(1, 2), **fields
) -> Sampler:
    return Sampler(Processing(**fields), temperature, top_p, seed, prompt, [0, LIKELIEST])


def draws(made: Sampler, logits=LOGITS, count: int = 400) -> Counter[int]:
    return Counter(made.choose(logits, position) for position in range(count))


def test_every_field_is_needed_and_nothing_else() -> None:
    assert not Processing().needed and not Processing(top_k=-1).needed
    for name, value in {
        "top_k": 1, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1,
        "repetition_penalty": 1.1, "logit_bias": {1: 1}, "min_tokens": 1, "logprobs": 0,
    }.items():  # fmt: skip
        assert Processing(**{name: value}).needed, name
    for name, value in {"top_k": -2, "min_p": 2, "repetition_penalty": 0, "min_tokens": -1}.items():
        with pytest.raises(UsageError, match=name):
            Processing(**{name: value})


def test_draws_follow_the_probabilities() -> None:
    found, expected = draws(sampler(1.0), count=4000), np.exp(LOGITS) / np.exp(LOGITS).sum()
    shares = np.asarray([found[i] for i in range(SIZE)]) / 4000
    assert np.abs(shares - expected).max() < 0.03
    assert draws(sampler(1.0)) == draws(sampler(1.0)) != draws(sampler(1.0, seed=4))
    assert draws(sampler()) == {LIKELIEST: 400}


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"top_k": 3}, {9, 10, 11}),
        ({"top_k": 99}, set(range(SIZE))),
        ({"min_p": 0.7}, {10, 11}),
        ({"top_p": 0.2}, {11}),
        ({"top_k": 2, "logit_bias": {LIKELIEST: -100}}, {9, 10}),
        ({"min_tokens": 1}, set(range(1, LIKELIEST))),
    ],
)
def test_what_is_drawn_from(fields: dict[str, object], left: set[int]) -> None:
    assert set(draws(sampler(2.0, **fields), count=4000)) == left  # type: ignore[arg-type]


def test_bias_and_penalties_choose_another_token() -> None:
    assert sampler(logit_bias={4: 5.0}).choose(LOGITS, 0) == 4
    prompted = sampler(repetition_penalty=4.0, prompt=[LIKELIEST, 10])
    assert prompted.choose(LOGITS, 0) == 9
    for field in ("presence_penalty", "frequency_penalty"):
        # Of the prompt they know nothing.
        made = sampler(prompt=[LIKELIEST], **{field: 1.0})
        assert made.choose(LOGITS, 0) == LIKELIEST
        made.advance(LIKELIEST)
        assert made.choose(LOGITS, 0) == 10
    made = sampler(frequency_penalty=0.3)
    chosen = []
    for _ in range(6):
        chosen.append(made.choose(LOGITS, 0))
        made.advance(chosen[-1])
    assert chosen == [11, 11, 10, 11, 10, 11]


def test_stop_tokens_wait_for_min_tokens() -> None:
    made = sampler(min_tokens=2)
    for expected in (10, 10, LIKELIEST):
        assert made.choose(LOGITS, 0) == expected
        made.advance(expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_left_is_an_error(temperature: float) -> None:
    """The model's own, or one of the request: of these a server's health does not tell."""
    for broken in (-np.inf, np.nan):
        with pytest.raises(FoundryError, match="logits are not finite") as raised:
            sampler(temperature, top_k=2).choose(np.full(SIZE, broken, np.float32), 0)
        assert not isinstance(raised.value, UsageError)
    ends = Sampler(Processing(min_tokens=1), temperature, 1.0, 3, PROMPT, range(SIZE))
    with pytest.raises(UsageError, match="no token may follow"):
        ends.choose(LOGITS, 0)


@given(st.floats(0, 1e-6, exclude_max=True), st.integers(0, SIZE), st.floats(0.01, 1))
def test_temperatures_next_to_zero_are_greedy(temperature: float, top_k: int, top_p: float) -> None:
    asked = Sampling(temperature)
    made = sampler(asked.temperature, top_p=top_p, top_k=top_k)
    assert made.choose(LOGITS, 0) == LOGITS.argmax()


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=30), st.integers(0, 25))
def test_log_probabilities_are_the_models_own(logits: list[float], count: int) -> None:
    values = np.asarray(logits, np.float32)
    made = sampler(logprobs=count, logit_bias={0: 50.0}, temperature=0.3)
    (entry,) = made.logprobs(values, 1)
    shifted = values.astype(np.float64) - values.max()
    expected = shifted - np.log(np.exp(shifted).sum())
    assert entry.logprob == pytest.approx(expected[1], abs=1e-4)
    order = sorted(range(len(logits)), key=lambda i: (-values[i], i))[: len(entry.top)]
    assert [i for i, _ in entry.top] == order or len(set(logits)) < len(logits)
    assert [p for _, p in entry.top] == pytest.approx(
        sorted(expected, reverse=True)[: len(entry.top)], abs=1e-4
    )
    assert len(entry.top) == min(count, len(logits))


def answers(requests, slots: int = 3, several: int = 3) -> list[Heard]:  # type: ignore[no-untyped-def,type-arg]
    target = Fake(mixing(1, 997), slots=slots, several=several)
    scheduler = Scheduler(target, Fake(mixing(2, 997), slots=slots))
    heard = [Heard() for _ in requests]
    for one, listener in zip(requests, heard, strict=True):
        scheduler.submit(one, listener)
    while scheduler.step():
        pass
    return heard


def test_answers_with_and_without_fields_do_not_disturb_each_other() -> None:
    asked = [
        request(20, [*PROMPT, i], i, Processing(**fields), max_rounds=i % 2)
        for i, fields in enumerate(
            [{}, {"logprobs": 2}, {}, {"top_k": 5, "frequency_penalty": 1.0}, {"logprobs": 0}, {}]
        )
    ]
    together = answers(asked)
    for one, heard in zip(asked, together, strict=True):
        assert heard.error is None
        alone = answers([one])[0]
        assert heard.said == alone.said and heard.reason == alone.reason
        assert heard.statistics.tokens == len(heard.said)
        if one.processing.needed:
            assert heard.statistics.rounds == 0
            assert heard.statistics.advanced == heard.statistics.advances
    assert len(together[1].said) == 20


def test_a_sampler_that_fails_ends_its_own_answer() -> None:
    broken = request(5, processing=Processing(logit_bias={VOCABULARY + 5: 1.0}))
    bad, good = answers([broken, request(5, max_rounds=0)])
    assert bad.error is not None and good.error is None and STOP not in good.said
