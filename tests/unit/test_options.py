"""Options of a workload from the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import UsageError
from foundryrt.options import describe, option, parse


@dataclass(frozen=True)
class Sample:
    model: str
    max_len: int = field(default=512, metadata={"help": "Longest sequence."})
    ratio: float | None = None
    greedy: bool = False


def test_values() -> None:
    got = parse(Sample, ["--model", "x", "--max-len=8", "--greedy", "--ratio", "-0.5"])
    assert got == Sample("x", 8, -0.5, True)
    assert parse(Sample, ["--model=a=b", "--greedy", "no"]) == Sample("a=b")


@given(st.integers(), st.text(), st.booleans(), st.floats(allow_nan=False))
def test_round_trip(length: int, model: str, greedy: bool, ratio: float) -> None:
    arguments = [
        f"--model={model}",
        f"--max-len={length}",
        f"--greedy={greedy}",
        f"--ratio={ratio}",
    ]
    assert parse(Sample, arguments) == Sample(model, length, ratio, greedy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is required"),
        (["--model"], "needs a value"),
        (["--modle", "x"], "no option --modle here; is --model meant"),
        (["--len", "3"], "is --max-len meant"),
        (["--bogus", "x"], "there are --model, --max-len"),
        (["x"], "unexpected argument"),
        (["--model", "x", "--max-len", "many"], "type int"),
        (["--model", "x", "--greedy", "perhaps"], "true or false"),
    ],
)
def test_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(Sample, arguments)


def test_an_option_may_stand_alone() -> None:
    @dataclass(frozen=True)
    class Live:
        live: str = option("", "where", alone="0")
        greedy: bool = False

    assert parse(Live, []) == Live("")
    assert parse(Live, ["--live"]) == parse(Live, ["--live", "0"]) == Live("0")
    assert parse(Live, ["--live", "--greedy"]) == Live("0", True)
    assert parse(Live, ["--live=", "--greedy"]) == Live("", True)


def test_describe() -> None:
    assert describe(Sample)[:2] == [
        ("--model", "required", ""),
        ("--max-len", "512", "Longest sequence."),
    ]


def test_describe_with_what_a_bundle_was_captured_with() -> None:
    @dataclass(frozen=True)
    class Changeable:
        threshold: float | None = None
        seed: int = 0

    rows = describe(Changeable, {"threshold": 0.7, "seed": 3})
    assert [row[1] for row in rows] == ["0.7", "0"]
    assert [row[1] for row in describe(Changeable)] == ["", "0"]
