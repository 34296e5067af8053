"""Attention and sampling kernels on the GPU: float64, a dense mask, row-invariance, capture."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def report(run):
    return run("parse_attention.py")


def test_near_float64_on_random_cuts_and_head_layouts(report):
    for name, error in report["against_float64"].items():
        assert error < (1e-5 if "float32" in name else 1e-2), name


def test_no_less_exact_than_torch_with_a_dense_mask(report):
    assert report["against_dense_mask"] < 1.5


def test_a_rows_bits_depend_on_nothing_else(report):
    assert report["row_variations"] == 0
    assert report["chain_variations"] == 0


def test_padding_is_harmless(report):
    assert report["finite_padding"]


def test_samples_are_those_of_the_reference(report):
    found = report["sampled"]
    # Two noisy scores may be closer than the rounding of a logarithm.
    assert found["agree"] >= found["of"] - 2
    assert found["ties"] == [77, 77]


def test_capturable(report):
    assert report["captured"]
