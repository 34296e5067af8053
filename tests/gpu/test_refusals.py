"""Captures that a bundle could not keep fail at capture, and say why."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def messages(run):
    return run("refusals.py")


def test_pinned_memory_is_named_with_its_kernel(messages):
    assert "elementwise_kernel" in messages["pinned"]
    assert "pinned host memory of" in messages["pinned"]


def test_device_memory_outside_the_arena_is_taken_in(messages):
    assert messages["outside"] == ""


def test_a_copy_from_the_host_is_refused(messages):
    assert "a copy's source is host memory" in messages["host_copy"]


@pytest.mark.parametrize(
    ("name", "words", "kernel"),
    [
        ("host_function", "a host function", "sin"),
        ("allocation", "a stream-ordered allocation", "cos"),
    ],
)
def test_nodes_that_cannot_be_kept_are_named_with_the_kernel_before(messages, name, words, kernel):
    assert f"the graph holds {words}" in messages[name]
    assert kernel in messages[name]


def test_a_refusal_leaves_the_recorder_usable(messages):
    assert messages["fine"] == ""


def test_a_recorder_made_after_the_first_cuda_call_is_refused(messages):
    assert "before the first CUDA call" in messages["late"]


def test_a_base_that_cannot_be_had_is_named(run):
    found = run("base_taken.py")
    assert found["range"] in found["message"]
