"""A layer of a small model on the GPU: a row has the same bits alone, in a batch and in a chain."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def report(run):
    return run("parse_fused.py")


def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(report):
    assert set(report["alone"].values()) == {0}


def test_a_row_of_held_weights_has_the_bits_of_streamed_ones(report):
    assert set(report["held"].values()) == {0}


def test_a_chain_has_the_bits_of_decoding(report):
    assert set(report["chain"].values()) == {0}
