"""The file name of a bundle that nobody named."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryc.naming import file_name


@dataclass(frozen=True)
class Decoder:
    model: str
    max_len: int = 512
    ratio: float = 0.5
    two_stage: bool = False
    fast: bool = True
    prompt: str = "Is it valid?"


@dataclass(frozen=True)
class Radio:
    grid: str = "1024x32"


@pytest.mark.parametrize(
    ("settings", "marks", "name"),
    [
        (Decoder("smollm2"), (), "smollm2.fdy"),
        (Decoder("smollm2", max_len=256), (), "smollm2-max_len256.fdy"),
        (Decoder("/models/Qwen3-0.6B/", ratio=2.0), ("cuda",), "Qwen3-0.6B-ratio2-cuda.fdy"),
        (Decoder("x/y.gguf", two_stage=True, fast=False), (), "y-two_stage-fast_no.fdy"),
        (Radio(), (), "radio.fdy"),
        (Radio("64x32"), ("embedded",), "radio-grid64x32-embedded.fdy"),
    ],
)
def test_names(settings: object, marks: tuple[str, ...], name: str) -> None:
    assert file_name("radio", settings, *marks) == name


def test_long_and_odd_values_are_told_by_their_digests() -> None:
    first = file_name("x", Decoder("m", prompt="Does all of this hold, step by step? A"))
    second = file_name("x", Decoder("m", prompt="Does all of this hold, step by step? B"))
    assert first != second and first.startswith("m-promptDoes-all-of-")
    long = [file_name("x", Decoder("m"), *["mark"] * count) for count in (40, 40, 41)]
    assert long[0] == long[1] != long[2] and len(long[0]) < 20


@given(st.text(), st.text())
def test_a_name_needs_no_quoting(model: str, prompt: str) -> None:
    name = file_name("demo", Decoder(model, prompt=prompt))
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+,-]*\.fdy", name), name
