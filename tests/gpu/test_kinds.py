"""Every source of kernels and every kind of node that torch captures."""

from __future__ import annotations

import pytest

KINDS = (
    "convolution", "matmul_float32", "attention", "sort", "topk", "fft", "inductor",
    "inductor_tuned", "triton", "nvrtc", "forked", "memset_memcpy",
)  # fmt: skip


@pytest.fixture(scope="module")
def captured(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return folder, run("capture_kinds.py", folder)


@pytest.fixture(scope="module")
def replayed(captured, run):
    return run("replay_kinds.py", captured[0])["identical"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_replay_gives_torchs_own_bits(captured, replayed, kind):
    assert captured[1]["errors"].get(kind) is None
    assert replayed[kind] is True


def test_copies_and_memsets_are_nodes_of_their_own(captured):
    found = captured[1]["node_kinds"]
    assert set(found["memset_memcpy"]) == {"1", "2"}
    assert "3" in {kind for kinds in found.values() for kind in kinds}


def test_variables_that_the_host_set_are_noticed(captured):
    assert captured[1]["variables"] == ["lut_sp"]
