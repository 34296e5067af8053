"""Tokens by a captured model's graphs: how a prompt is cut, and which tokens may be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from hf_runtime.generate import CapturedModel, Sampling, nucleus
from hf_runtime.settings import Settings


class Graph:
    """Counts up: the token after all that were read is their number."""

    def __init__(self, session: Fake, count: int) -> None:
        self.session, self.count = session, count

    def write(self, name: str, values: np.ndarray) -> None:
        assert name == f"tokens.{self.count}" and values.shape == (1, self.count)
        self.session.given = values[0].tolist()

    def launch(self) -> None:
        if not self.count:
            self.session.read_tokens.clear()
        self.session.launches.append(self.count)
        self.session.read_tokens += self.session.given if self.count else []

    def read(self, name: str) -> np.ndarray:
        assert name == "token"
        return np.int64(len(self.session.read_tokens))


class Fake:
    def __init__(self, sizes: list[int], max_len: Any) -> None:
        self.settings = {"max_len": max_len}
        self.graphs = [("reset", {}), *(("forward", {"tokens": n}) for n in sizes)]
        self.launches: list[int] = []
        self.read_tokens: list[int] = []
        self.given: list[int] = []

    def graph(self, name: str, **key: int) -> Graph:
        return Graph(self, key.get("tokens", 0))


@given(st.sets(st.integers(1, 9)), st.integers(2, 40), st.lists(st.integers(0, 99), min_size=1))
def test_a_prompt_is_read_whole_and_in_order(sizes: set[int], length: int, prompt: list[int]):
    session = Fake(sorted({1, *sizes}), length)
    model = CapturedModel(session)  # type: ignore[arg-type]
    if len(prompt) >= length:
        with pytest.raises(UsageError, match="leaves no room"):
            next(model.answer(prompt, Sampling()))
        return
    for _ in range(2):
        session.launches.clear()
        answers = model.answer(prompt, Sampling())
        assert next(answers) == len(prompt) and session.read_tokens == prompt
        assert session.launches == [0, *sorted(session.launches[1:], reverse=True)]
        # The last token needs no room in the cache.
        assert [len(prompt), *answers] == list(range(len(prompt), length + 1))


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30),
    st.floats(0.05, 5),
    st.floats(0.01, 1),
)
def test_a_nucleus_is_the_fewest_tokens_that_reach_its_share(
    logits: list[float], temperature: float, share: float
) -> None:
    kept, _, _, probabilities = nucleus(np.array(logits, np.float32), temperature, share)
    scaled = np.array(logits, np.float32).astype(np.float64) / temperature
    whole = np.exp(scaled - scaled.max())
    whole /= whole.sum()
    assert abs(probabilities.sum() - 1) < 1e-9 and len(set(kept.tolist())) == len(kept)
    assert whole[kept].min() >= np.delete(whole, kept).max(initial=0) - 1e-12
    assert whole[kept].sum() >= share - 1e-9
    assert whole[kept[:-1]].sum() < share + 1e-9


@pytest.mark.parametrize(
    "values", [{"temperature": -1}, {"temperature": float("inf")}, {"top_p": 0}]
)
def test_sampling_that_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"is needed|a number above 0"):
        Sampling(**values)  # type: ignore[arg-type]


def test_settings() -> None:
    assert Settings("m", prefill="32,8").sizes() == [1, 8, 32]
    for changes in ({"prefill": "8,x"}, {"prefill": "0"}, {"max_len": 16}, {"dtype": "int8"}):
        with pytest.raises(UsageError, match=r"prefill|dtype"):
            Settings("m", **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 2"):
        Settings("m", max_len=1)


@pytest.mark.parametrize(("sizes", "length"), [([4], 8), ([1], "8"), ([1], 0), ([0, 1], 8)])
def test_a_bundle_without_what_it_needs(sizes: list[int], length: Any) -> None:
    with pytest.raises(FoundryError, match="damaged bundle"):
        CapturedModel(Fake(sizes, length))  # type: ignore[arg-type]
