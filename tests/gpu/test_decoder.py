"""A decoder's graphs, captured with torch and replayed in a process that never imports it."""

from __future__ import annotations

import pytest

from foundryrt.bundle.reader import Bundle


@pytest.fixture(scope="module")
def captured(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    return folder, run("capture_decoder.py", folder)


def test_every_graph_gives_torchs_own_bits(captured, run):
    assert captured[1]["repeats_itself"]
    replay = run("replay_decoder.py", captured[0])
    assert replay["graphs"] == 4
    assert all(all(one) for one in replay["identical"])
    assert replay["nonzero"]
    assert not replay["torch_imported"]


def test_programmatic_launch_edges_survive(captured):
    bundle = Bundle.open(captured[0] / "smoke.fdy")
    kinds = {int(kind) for i in range(len(bundle.manifest.templates))
             for kind in bundle.template(i).edge_type}  # fmt: skip
    assert kinds == {0, 1}


def test_two_captures_have_one_layout(captured, run, tmp_path):
    run("capture_decoder.py", tmp_path)
    first = Bundle.open(captured[0] / "smoke.fdy").manifest
    second = Bundle.open(tmp_path / "smoke.fdy").manifest
    for name in ("regions", "tensors", "kernels", "functions", "templates"):
        assert getattr(first, name) == getattr(second, name), name


def test_residue_of_the_warm_up_is_not_saved(captured):
    saved = [region for region in Bundle.open(captured[0] / "smoke.fdy").manifest.regions
             if region.section != -1]  # fmt: skip
    assert [region.name for region in saved] == ["weights"]
