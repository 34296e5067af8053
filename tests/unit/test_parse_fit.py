"""Sizes that a capture chooses for a machine."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryc.cache.request import Request
from foundryrt.errors import UsageError
from parse_runtime.capture.fit import LIMITS, _caches, _scratch, _weights, choose, memory
from parse_runtime.models.config import ModelConfig

CONFIG = ModelConfig(
    architecture="qwen3", layers=40, hidden=5120, intermediate=17408, heads=40, kv_heads=8,
    head_dim=128, vocab=151936, max_positions=40960, rms_eps=1e-6, rope_theta=1e6,
)  # fmt: skip
# As many weights as Qwen3-14B has.
WEIGHTS = SimpleNamespace(shape=(14_768_307_200,), dtype="")
MODEL: Any = SimpleNamespace(config=CONFIG, parameters=[WEIGHTS])
GIB = 1 << 30


def test_a_model_of_14b_on_gpus() -> None:
    wide = choose({"model": "m"}, LIMITS["cuda"], 140 * GIB, MODEL, MODEL)
    assert wide == {
        "dtype": "bfloat16", "max_rounds": 0, "max_len": 32768, "slots": 64, "kv_tokens": 299008,
        "prefill": "128,256,384,512,1024,2048", "mixed": "32,64",
    }  # fmt: skip
    narrow = choose({"model": "m"}, LIMITS["cuda"], 40 * GIB, MODEL, MODEL)
    assert (narrow["max_len"], narrow["slots"], narrow["kv_tokens"]) == (16384, 64, 20480)
    least = choose({"model": "m", "max_len": 2048}, LIMITS["cuda"], 35 * GIB, MODEL, MODEL)
    assert (least["slots"], least["kv_tokens"]) == (16, 6144)
    with pytest.raises(UsageError, match=r"m: .* GiB more than the 24\.0 GiB"):
        choose({"model": "m"}, LIMITS["cuda"], 24 * GIB, MODEL, MODEL)


def test_weights_in_fp8_leave_room() -> None:
    weights = SimpleNamespace(shape=WEIGHTS.shape, dtype="float8_e4m3fn")
    model: Any = SimpleNamespace(config=CONFIG, parameters=[weights])
    assert 2 * _weights(model, model, "bfloat16") == _weights(MODEL, MODEL, "bfloat16")
    found = choose({"model": "m"}, LIMITS["cuda"], 24 * GIB, model, model)
    assert (found["max_len"], found["slots"], found["kv_tokens"]) == (16384, 64, 21504)


def test_passes_that_compute_in_more_than_is_left_are_not_captured() -> None:
    # Of a mixture whose rows go to many experts: the rest of 24 GiB is 1.8.
    config = replace(
        CONFIG, architecture="qwen3_moe", layers=2, experts=64, experts_per_token=60,
        expert_intermediate=2048,
    )  # fmt: skip
    model: Any = SimpleNamespace(config=config, parameters=[])
    assert _scratch(model, 1024, 64, "bfloat16") < 1.8 * GIB < _scratch(model, 2048, 64, "bfloat16")
    found = choose({"model": "m"}, LIMITS["cuda"], 24 * GIB, model, model)
    assert found["prefill"] == "128,256,384,512,1024"


def test_what_is_given_stays() -> None:
    given = {"model": "m", "max_len": 100, "slots": 3, "draft": "d", "dtype": "float32"}
    found = choose(given, LIMITS["cuda"], 140 * GIB, MODEL, MODEL)
    assert found == {
        "prefill": "128,256", "mixed": "3", "verify": "128x4,384x8,512x4x4,768x8x4",
    }  # fmt: skip
    assert choose({**given, "verify": "64x4"}, LIMITS["cuda"], 140 * GIB, MODEL, MODEL) == {
        "prefill": "128,256", "mixed": "3",
    }  # fmt: skip
    assert "verify" not in choose({**given, "slots": 4}, LIMITS["host"], 300 * GIB, MODEL, MODEL)
    short = choose({"model": "m", "max_len": 20}, LIMITS["host"], 300 * GIB, MODEL, MODEL)
    assert short["prefill"] == "32"
    given = {"model": "m", "max_len": 20, "slots": 1}
    assert choose(given, LIMITS["cuda"], 140 * GIB, MODEL, MODEL)["prefill"] == "20"
    with pytest.raises(UsageError, match="500000 tokens of cache"):
        choose({"model": "m", "kv_tokens": 500000}, LIMITS["cuda"], 80 * GIB, MODEL, MODEL)
    few = choose({"model": "m", "kv_tokens": 9000}, LIMITS["cuda"], 80 * GIB, MODEL, MODEL)
    assert (few["slots"], few["max_len"]) == (32, 9000) and "kv_tokens" not in few
    # No pass has more rows than there are tokens.
    given = {"model": "m", "max_len": 512, "kv_tokens": 1000}
    assert choose(given, LIMITS["cuda"], 80 * GIB, MODEL, MODEL)["prefill"] == "128,256,384,512"


@given(available=st.integers(35, 400), slots=st.none() | st.integers(1, 40))
def test_it_fits_and_is_as_much_as_fits(available: int, slots: int | None) -> None:
    given = {"model": "m"} | ({} if slots is None else {"slots": slots})
    limits, total = LIMITS["cuda"], available * GIB
    room = int(total * limits.share) - _weights(MODEL, MODEL, "bfloat16")
    try:
        found = {**given, **choose(given, limits, total, MODEL, MODEL)}
    except UsageError:
        assert _caches(given, 256, 256, MODEL, MODEL, "bfloat16") > room
        return
    length, chosen = int(found["max_len"]), int(found["slots"])
    tokens = int(found.get("kv_tokens", length * chosen))
    assert length <= tokens <= length * chosen
    assert _caches(given, length, tokens, MODEL, MODEL, "bfloat16") <= room
    if "kv_tokens" in found:
        assert _caches(given, length, tokens + 2048, MODEL, MODEL, "bfloat16") > room
    if slots is None and chosen < limits.slots:
        assert 256 * chosen <= max(tokens, 256) < 512 * chosen + 1024


def test_prefills_take_steps_along_where_there_are_such() -> None:
    def mixed(target: str = "cuda", **given: Any) -> str | None:
        return choose({"model": "m", **given}, LIMITS[target], 300 * GIB, MODEL, MODEL).get("mixed")

    assert (mixed(), mixed(slots=256), mixed(slots=100)) == ("32,64", "32,64,128,256", "32,64,100")
    assert mixed(slots=1) is mixed(eagle="e") is mixed(speculate="draft") is None
    assert mixed("host") is mixed(run_ahead=False) is mixed(mixed="2") is None
    assert mixed(prefill="256") is None
    # A pass of 32 or 48 rows has no 32 left for prompts.
    assert mixed(max_len=16, slots=2) is mixed(max_len=48, kv_tokens=48, slots=24) is None
    assert mixed(max_len=64, slots=24) == "24"


def test_suffixes_of_drafts_that_share_a_pass_have_blocks() -> None:
    sizes = (100, 100, MODEL, MODEL, "bfloat16")
    given = {"verify": "64x4,384x4x4", "slots": 4}
    bytes_of_a_row = _caches({"verify": "65x4"}, *sizes) - _caches({"verify": "64x4"}, *sizes)
    assert bytes_of_a_row > 0
    assert _caches(given, *sizes) - _caches({**given, "slots": 1}, *sizes) > 15 * bytes_of_a_row


def test_the_machine_says_how_much_it_has() -> None:
    assert memory("host") > 1 << 28


def test_a_workload_that_cannot_choose_is_named() -> None:
    with pytest.raises(UsageError, match="'otfs' cannot choose its sizes"):
        Request.read("otfs", "host", False, [], fit=True)
