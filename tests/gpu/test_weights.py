"""Weights left in the user's file; torch as a consumer of a bundle's tensors."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def reports(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    captured = run("capture_weights.py", folder)
    return captured, run("replay_weights.py", folder)


def test_recipes_fill_the_device_with_the_captured_bytes(reports):
    assert reports[1]["weight"] and reports[1]["out"]
    assert reports[1]["file"] == "kept"


def test_torch_shares_the_memory(reports):
    found = reports[1]
    assert found["dlpack"] and found["dlpack_in_place"] and found["array_interface"]
    assert found["dtype"] == "torch.bfloat16"
    assert found["written_by_torch"]
