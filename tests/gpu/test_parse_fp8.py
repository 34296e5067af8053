"""Products with FP8 weights on the GPU: float64, row-invariance, capture."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def report(run):
    return run("parse_fp8.py")


def test_products_near_float64(report):
    for name, error in report["products"].items():
        assert error < (1e-5 if "float32" in name else 1e-2), name


def test_dequantized_as_on_the_cpu(report):
    assert report["dequantized"] == 0


def test_a_rows_bits_do_not_depend_on_the_other_rows(report):
    assert report["row_variations"] == 0
    assert report["mixture"]["varied"] == 0


def test_experts_near_float64(report):
    for name, error in report["mixture"].items():
        assert error < 2e-2, name


def test_capturable(report):
    assert report["captured"]
