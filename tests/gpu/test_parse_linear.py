"""Linear, fused and expert kernels on the GPU: float64, row-invariance, capture."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def report(run):
    return run("parse_linear.py")


def test_products_near_float64(report):
    for products in (report["products"], report["products_of_ranks"]):
        for name, error in products.items():
            assert error < (1e-5 if "float32" in name else 1e-2), name


def test_a_rows_bits_do_not_depend_on_the_other_rows(report):
    assert report["row_variations"] == report["row_variations_of_ranks"] == 0
    assert report["mixture"]["varied"] == 0


def test_norms_and_rotary_store_near_float64(report):
    for name, error in report["fused"].items():
        assert error < 1e-2, name


def test_experts_near_float64(report):
    for name, error in report["mixture"].items():
        assert error < 2e-2, name


def test_capturable(report):
    assert report["captured"]
