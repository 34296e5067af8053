"""A workload that never warmed up: libraries come up in the capture, or a refusal says why."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def messages(run):
    return run("capture_cold.py")


@pytest.mark.parametrize("name", ["elementwise", "linear", "attention", "convolution"])
def test_libraries_come_up_inside_a_capture(messages, name):
    assert messages[name] == ""


def test_torchs_generator_state_is_taken_in(messages):
    assert messages["random"] == ""


def test_a_literal_is_refused_by_torch(messages):
    assert "during CUDA graph capture" in messages["literal"]
