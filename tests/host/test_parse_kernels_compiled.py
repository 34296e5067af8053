"""The Triton kernels' machine code for a Hopper GPU: order of memory accesses, and of rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report

NORMS = "_add_rms_norm", "_reduce_add_rms_norm"
STREAMS = "_stream", "_stream_swiglu", "_stream_shares"


@pytest.fixture(scope="module")
def report() -> Any:
    return kernel_report("compiled_kernels.py", interpreted=False)


def test_every_kernel_waits_for_those_before_it(report: Any) -> None:
    """Whichever way a program goes, and before it touches memory: `kernels/cuda/chain.py`."""
    assert len(report["kernels"]) == 52
    for name, kernel in report["kernels"].items():
        assert kernel["programmatic"], name
        for code in kernel["code"]:
            assert code["waits"] == code["releases"] == 1, name
            assert code["branches"] == 0, name
            # Weights are no other kernel's result.
            weights = code["loads"] if name.startswith(("_held", *NORMS, *STREAMS)) else 0
            assert code["memory"] == weights, name
            if name.startswith("_held"):
                assert weights > 0, name
        if name in STREAMS:
            assert any(code["loads"] for code in kernel["code"]), name


def test_angles_of_far_positions_are_exact(report: Any) -> None:
    for name in ("_rotate_groups", "_rotate_store", "_partial"):
        assert not any(report["kernels"][name]["approximate"]), name


def test_one_code_serves_any_number_of_rows(report: Any) -> None:
    """Else sums might run in another order. `_group` computes with integers alone.

    One row may have kernels that hold their weights, in place of those that stream them.
    """
    passes: dict[str, list[list[str]]] = {}
    for name, launches in report["of_pass"].items():
        found = [launch for launch in launches if not launch.startswith("_group")]
        passes.setdefault(name.split()[0], []).append(found)
    for dtype, (one, *more) in passes.items():
        assert all(launches == more[0] for launches in more), dtype
        assert len(one) == len(more[0])
        for alone, among in zip(one, more[0], strict=True):
            assert alone == among or (
                alone.startswith("_held_row ") and among.startswith(STREAMS)
            ), dtype  # fmt: skip
        assert (one != more[0]) == (dtype == "torch.bfloat16")


def test_a_warp_sends_words_that_lie_side_by_side(report: Any) -> None:
    """Of 64 rows scattered words took ten times as long (benchmarks/results/tp_sent.json)."""
    layouts = report["kernels"]["_stream_shares"]["sent"]
    assert layouts
    for [layout] in layouts:
        assert "threadsPerWarp = [1, 32]" in layout and "order = [1, 0]" in layout


def test_exchanges_move_four_words_at_once(report: Any) -> None:
    """What is awaited, sent, and made ready again (benchmarks/results/tp_exchange_ways.json)."""
    own = {"ld.volatile.global.v4.b32", "st.global.v4.b32"}
    for found in report["kernels"]["_all_reduce"]["quads"]:
        assert own | {"ld.global.v4.b32", "st.relaxed.sys.global.v4.b32"} <= set(found)
    for found in report["kernels"]["_reduce_add_rms_norm"]["quads"]:
        assert own <= set(found)


def test_rows_in_fp8_are_multiplied_as_they_are(report: Any) -> None:
    """By FP8 tensor cores, whatever the rows were before they were quantized."""
    for name in ("_block_scaled", "_block_scaled_swiglu"):
        assert {tuple(found) for found in report["kernels"][name]["multiplied"]} == {("e4m3.e4m3",)}
    for name in ("_gate_up", "_down"):
        found = [kinds for kinds in report["kernels"][name]["multiplied"] if "e4m3.e4m3" in kinds]
        assert found and all(kinds == ["e4m3.e4m3"] for kinds in found), name


def test_fp8_weights_are_added_up_by_sixteens(report: Any) -> None:
    """As `words.py` and `wgmma` do, if the compiler gives threads what is expected of it.

    Few rows and their weights come into shared memory 16 bytes at a time, scales by 4.
    """
    for name in ("_stream", "_stream_swiglu"):
        kernel = report["kernels"][name]
        every = zip(kernel["products"], kernel["copied"], kernel["converted"], strict=True)
        found = [one[:2] for one in every if one[2] and "nvidia_mma" in one[0][0]]
        few = [one for one in found if len(one[0]) == 2]
        assert few and len(few) < len(found), name
        for layouts, copied in few:
            assert all("versionMajor = 2" in one and "kWidth = 4" in one for one in layouts), name
            assert copied == [4, 16], name
        for layouts, _ in found:
            if len(layouts) == 1:
                assert "versionMajor = 3" in layouts[0] and "kWidth = 2" in layouts[0], name


def test_fused_kernels_sum_in_the_order_of_those_they_replace(report: Any) -> None:
    """Products, a row's norm, and its heads' norms have one layout of warps and lanes each."""

    def layouts(name: str) -> list[set[str]]:
        return [set(found) for found in report["kernels"][name]["sums"]]

    norm = layouts("_add_rms_norm_narrow")[0]
    assert len(norm) == 1
    assert all(found == norm for found in layouts("_add_rms_norm_narrow"))
    assert all(found == norm for found in layouts("_held_normed"))
    heads = layouts("_rotate_groups")[0]
    assert len(heads) == 1
    assert all(found == heads for found in layouts("_rotate_groups"))
    # The first of each type has been rotated before, the last rotates.
    assert [heads <= found for found in layouts("_partial")].count(True) == 2
    held = [report["kernels"][f"_held_{name}"]["products"] for name in ("row", "normed", "united")]
    assert len({tuple(found) for kernel in held for found in kernel}) == 1
    assert len(held[0][0]) == 2


def test_tiles_of_held_weights_are_products_of_their_own(report: Any) -> None:
    """Where they are held and where they are streamed: none goes on from the sum of others."""
    for name in ("_held_row", "_held_normed", "_held_united"):
        for found in report["kernels"][name]["chains"]:
            assert 0 < found["products"] == found["from_zero"] <= found["added"], name
    for name in ("_stream", "_stream_swiglu"):  # not of ranks, which hold the first tiles alone
        of_tiles = report["kernels"][name]["chains"]
        apart = [found["products"] == found["from_zero"] <= found["added"] for found in of_tiles]
        assert any(apart) and not all(apart), name
