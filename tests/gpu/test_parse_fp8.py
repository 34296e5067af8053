"""Products with FP8 weights, of rows as they are and in FP8, on the GPU: float64, rows, capture."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def report(run):
    return run("parse_fp8.py")


@pytest.fixture(scope="module")
def fp8_rows(run):
    return run("parse_fp8_rows.py")


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


def test_rows_are_quantized_as_on_the_cpu(fp8_rows):
    assert fp8_rows["rows"] == fp8_rows["normed"] == 0


def test_products_of_rows_in_fp8_near_float64(fp8_rows):
    """Tensor cores keep some 14 bits of the sum of a block of 128."""
    for name, error in fp8_rows["products"].items():
        assert error < (1e-3 if "float32" in name else 5e-3), name


def test_bits_of_a_row_in_fp8_depend_on_it_alone(fp8_rows):
    assert fp8_rows["variations"] == 0
    assert fp8_rows["mixture"].pop("varied") == 0


def test_experts_of_rows_in_fp8_as_on_the_cpu(fp8_rows):
    for name, error in fp8_rows["mixture"].items():
        assert error < 1e-2, name


def test_rows_that_are_not_finite_stay_so_and_alone(fp8_rows):
    assert fp8_rows["nonfinite"]


def test_products_of_rows_in_fp8_are_capturable(fp8_rows):
    assert fp8_rows["captured"]
