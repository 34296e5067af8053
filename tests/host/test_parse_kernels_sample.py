"""Sampling: greedy, distribution, nucleus, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from parse_runtime.kernels.sample import gumbel, least_in_nucleus, sample


def draw(logits: torch.Tensor, heat: float, mass: float, count: int, seed: int = 0) -> torch.Tensor:
    """Tokens of one row of logits at positions 0 to count - 1."""
    seeds = torch.full((count,), seed)
    full = torch.full((count,), heat), torch.full((count,), mass)
    return sample(logits.expand(count, -1), *full, seeds, torch.arange(count))


def test_noise_is_gumbels_in_every_direction() -> None:
    """Over the vocabulary, over positions, and over seeds, near and far apart."""
    one, many = torch.ones(1, dtype=torch.int64), torch.arange(50_000)
    samples = (
        gumbel(one, one, 50_000)[0],
        gumbel(one.expand(50_000), many, 1)[:, 0],
        gumbel(many, one.expand(50_000), 1)[:, 0],
        gumbel(many << 32, one.expand(50_000), 1)[:, 0],
    )
    for found in samples:
        assert kstest(found.numpy(), "gumbel_r").pvalue > 1e-4
    pairs = torch.corrcoef(torch.stack(samples))
    assert (pairs - torch.eye(4)).abs().max() < 0.02


def test_greedy_takes_the_lowest_of_equal_logits() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    zero = torch.zeros(2)
    assert sample(logits, zero, zero + 1, zero.long(), zero.long()).tolist() == [1, 0]


@pytest.mark.parametrize("heat", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(heat: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3))
    counts = draw(logits, heat, 1.0, 20_000).bincount(minlength=12).numpy()
    expected = (logits.double() / heat).softmax(-1).numpy() * 20_000
    assert chisquare(counts, expected).pvalue > 1e-4


def test_nucleus_keeps_the_likeliest_and_their_proportions() -> None:
    likelihood = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2], dtype=torch.float64)
    counts = draw(likelihood.log(), 1.0, 0.7, 20_000).bincount(minlength=5)
    assert counts[0] == counts[2] == 0
    kept = [1, 3, 4]
    expected = likelihood[kept] / likelihood[kept].sum() * 20_000
    assert chisquare(counts[kept].numpy(), expected.numpy()).pvalue > 1e-4


def test_tokens_of_equal_probability_stay_together() -> None:
    found = draw(torch.tensor([1.0, 1.0, 1.0, -9.0]), 1.0, 0.1, 300)
    assert set(found.tolist()) == {0, 1, 2}


@settings(max_examples=80)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    vocabulary=st.integers(1, 300),
    heat=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    mass=st.sampled_from([0.0, 0.1, 0.6, 0.95, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_token_is_that_of_the_row_alone_and_lies_in_the_nucleus(
    seed: int, vocabulary: int, heat: float, mass: float, dtype: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(seed % 2**31)
    logits = (torch.randn(4, vocabulary, generator=g) * 3).to(dtype)
    rows = (
        torch.tensor([1.0, heat, 0.0, heat]), torch.tensor([0.5, mass, 1.0, mass]),
        torch.tensor([1, seed, 2, seed]), torch.tensor([5, 70_000, 8, 70_001]),
    )  # fmt: skip
    found = sample(logits, *rows)
    assert found.shape == (4,) and found.equal(sample(logits.float(), *rows))
    for i in range(4):
        alone = sample(logits[i : i + 1], *(x[i : i + 1] for x in rows))
        assert alone[0] == found[i]
    likelihood = (logits[1].double() / heat).softmax(-1) if heat else logits[1].double()
    likelier = likelihood > likelihood[found[1]]
    if heat:
        assert not likelier.any() or likelihood[likelier].sum() < mass + 1e-5
    else:
        assert not likelier.any()


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.integers(1, 200),
    spread=st.sampled_from([0.0, 3.0, 40.0]),
    mass=st.floats(0.0, 0.999),
)
def test_the_least_of_the_nucleus_is_that_of_a_sort(
    seed: int, vocabulary: int, spread: float, mass: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    # In quarters, so that some are equally likely.
    logits = (torch.randn(3, vocabulary, generator=g) * spread).mul(4).round() / 4
    likelihood = logits.softmax(-1)
    found = least_in_nucleus(likelihood, torch.full((3,), mass))
    for row, least in zip(likelihood, found, strict=True):
        assert (row == least).any()
        above = row[row > least].double().sum()
        assert above < mass + 1e-5 or least == row.max()
        lower = row[row < least]
        assert not len(lower) or row[row > lower.max()].double().sum() > mass - 1e-5
