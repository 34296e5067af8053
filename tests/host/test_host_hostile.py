"""Host bundles whose checks all pass but whose graphs are wrong or meant to do harm."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from foundryc.capture import Capture, RegionImage
from foundryc.cli import app
from foundryc.template import GraphTable
from foundryc.write import write_bundle
from foundryrt.bundle.schema import Function, NodeKind, Requirements, Tensor
from foundryrt.errors import FoundryError
from foundryrt.host.admitted import OperatorNotAdmitted
from foundryrt.host.operators import operator
from foundryrt.session import Session

SIZE = 4096
VECTOR = ["t", "float32", 1, 0]


def tensor(address: int, size: int = 4, stride: int = 1) -> list[int]:
    return [address, size, stride]


def form(args: Any, pairs: Any = (), results: Any = ()) -> bytes:
    return msgspec.msgpack.encode([args, pairs, results])


GOOD = form([VECTOR, VECTOR], [["alpha", "i"], ["out", VECTOR]])
WORDS = [*tensor(0), *tensor(64), 1, *tensor(128)]


def write(
    path: Path, function: str = "aten::add.out", skeleton: bytes = GOOD, words: Any = WORDS,
    kind: int = NodeKind.OPERATOR, **changes: Any,
) -> Path:  # fmt: skip
    """A bundle with one call in one graph; `changes` go to the capture."""
    table = GraphTable.of_nodes("g", {}, [kind], [0], [skeleton], [np.array(words, np.uint64)])
    capture = Capture(
        target="host",
        requirements=Requirements(memory=SIZE, torch="2.13.0"),
        producer={"threads": "1"},
        regions=[RegionImage("io", 0, SIZE)],
        tensors=[
            Tensor(name=n, region=0, offset=o, dtype="float32", shape=(4,), strides=(1,), role=r)
            for n, o, r in (("a", 0, "input"), ("b", 64, "input"), ("y", 128, "output"))
        ],
        functions=[Function(name=function)],
        graphs=[table],
    )
    write_bundle(path, replace(capture, **changes), "hostile", {}, {})
    return path


def run(path: Path) -> None:
    with Session.open(path) as session:
        session.graph("g").launch()


def test_the_unharmed_bundle_runs(tmp_path: Path) -> None:
    with Session.open(write(tmp_path / "a.fdy")) as session:
        session.write("a", np.arange(4, dtype=np.float32))
        session.write("b", np.ones(4, np.float32))
        session.graph("g").launch()
        assert session.read("y").tolist() == [1, 2, 3, 4]


def words(index: int, value: int) -> Callable[[Path], Path]:
    changed = [*WORDS[:index], value, *WORDS[index + 1 :]]
    return lambda path: write(path, words=changed)


def skeleton(*parts: Any, given: Any = ()) -> Callable[[Path], Path]:
    return lambda path: write(path, skeleton=form(*parts), words=list(given))


def function(name: str) -> Callable[[Path], Path]:
    return lambda path: write(path, function=name)


DEMAP = (
    form(
        [VECTOR, VECTOR, *["i"] * 8, "f", "i"],
        [[name, VECTOR] for name in ("bits", "llr", "mu", "symbols", "variance")],
    ),
    [*tensor(0), *tensor(64), 64, 32, 32, 16, 23, 2**64 - 8, 20, 6, 0x3FF0000000000000, 2,
     *(word for address in range(128, 448, 64) for word in tensor(address))],
)  # fmt: skip
"""A call of the receiver's demapper for a grid of 64x32, on vectors of 4 numbers."""

CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "address beyond the arena": (words(0, SIZE), "does not fit the arena"),
    "address near 2^64": (words(0, 2**64 - 4), "does not fit the arena"),
    "address not aligned": (words(0, 2), "does not fit the arena"),
    "size too large": (words(1, SIZE), "does not fit the arena"),
    "size overflowing 64 bits": (words(1, 2**63), "sizes"),
    "stride too large": (words(2, 2**50), "does not fit the arena"),
    "stride overflowing 64 bits, of one element": (
        lambda p: write(p, words=[0, 1, 2**63, *tensor(64), 1, *tensor(128)]),
        "strides",
    ),
    "conjugate of real numbers": (skeleton([["t", "float32", 0, 1]], given=[0]), "no argument"),
    "negative of booleans": (skeleton([["t", "bool", 0, 2]], given=[0]), "no argument"),
    "unknown flag": (skeleton([["t", "complex64", 0, 4]], given=[0]), "no argument"),
    "huge expansion": (
        lambda p: write(p, words=[0, 2**50, 0, *tensor(64), 1, *tensor(128)]),
        "elements",
    ),
    "too few words": (lambda p: write(p, words=WORDS[:-1]), "too few"),
    "too many words": (lambda p: write(p, words=[*WORDS, 0]), "too many"),
    "unknown dtype": (skeleton([["t", "float99", 0, 0]], given=[0]), "dtype"),
    "negative rank": (skeleton([["t", "float32", -1, 0]], given=[0]), "no argument"),
    "rank beyond torch's": (skeleton([["t", "float32", 99, 0]], given=[0] * 199), "no argument"),
    "skeleton no MessagePack": (lambda p: write(p, skeleton=b"\xc1"), "unreadable"),
    "skeleton cut off": (lambda p: write(p, skeleton=GOOD[:-1]), "unreadable"),
    "skeleton nested deeply": (lambda p: write(p, skeleton=b"\x91" * 5000 + b"\xc0"), "skeleton"),
    "lists nested too deeply": (skeleton([["l", ["l", ["l", ["l", ["l"]]]]]]), "no argument"),
    "skeleton of another form": (skeleton(1), "another form"),
    "unknown leaf": (skeleton([["x", 1]]), "no argument"),
    "result no tensor": (skeleton([], [], ["i"], given=[1]), "result is no tensor"),
    "argument given twice": (
        skeleton([VECTOR, VECTOR], [["self", VECTOR], ["out", VECTOR]], given=WORDS[:6] * 2),
        "schema",
    ),
    "argument missing": (skeleton([VECTOR], given=WORDS[:3]), "schema"),
    "argument unknown": (
        skeleton([VECTOR, VECTOR], [["path", ["s", "x"]]], given=WORDS[:6]),
        "schema",
    ),
    "too many arguments": (skeleton([VECTOR] * 3, given=WORDS[:6] + tensor(128)), "schema"),
    "arguments of a wrong type": (
        skeleton([["s", "x"], VECTOR], [["out", VECTOR]], given=WORDS[:6]),
        "node 0, aten::add.out",
    ),
    "result that does not fit": (
        lambda p: write(
            p,
            "aten::add.Tensor",
            form([VECTOR, VECTOR], [], [VECTOR]),
            [*tensor(0), *tensor(64), *tensor(128, 3)],
        ),
        r"returned torch.float32 \(4,\)",
    ),
    "resizing": (
        lambda p: write(p, "aten::resize_", form([VECTOR, ["l", "i"]]), [*tensor(0), 9999]),
        "may not do",
    ),
    "opening a file": (
        lambda p: write(p, "aten::from_file", form([["s", "/etc/passwd"]]), []),
        "may not do",
    ),
    "another namespace": (function("prims::add"), "calls 'prims::add', which a bundle may not do"),
    "a Python attribute": (function("aten::__class__"), "calls 'aten::__class__', which"),
    "a path into torch": (function("aten::add.out.__globals__"), "__globals__', which"),
    "an unknown overload": (function("aten::add.nothing"), "calls 'aten::add.nothing', which"),
    "an unknown operator": (function("aten::nothing"), "calls 'aten::nothing', which"),
    "an unknown operator of this package": (
        function("foundry::nothing"),
        "foundry::nothing', which",
    ),
    "an operator of this package on tensors that do not fit it": (
        lambda p: write(p, "foundry::zak_demap", *DEMAP),
        "node 0, foundry::zak_demap: its arguments do not fit each other",
    ),
    "another node kind": (lambda p: write(p, kind=NodeKind.KERNEL), "no list of operator calls"),
    "a silly number of threads": (
        lambda p: write(p, producer={"threads": "1e9"}),
        "threads",
    ),
    "another torch": (
        lambda p: write(p, requirements=Requirements(memory=SIZE, torch="1.4.0")),
        "captured with torch 1.4.0",
    ),
    "an arena no machine has": (
        lambda p: write(
            p,
            requirements=Requirements(memory=1 << 56, torch="2.13.0"),
            regions=[RegionImage("io", 0, 1 << 56)],
        ),
        "bytes of arena",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path) -> None:
    make, message = CASES[case]
    with pytest.raises(FoundryError, match=message):
        run(make(tmp_path / "a.fdy"))


@pytest.mark.parametrize(
    "name",
    [
        "aten::from_file", "aten::set_.source_Storage", "aten::set_.source_Tensor",
        "aten::resize_as_", "aten::normal.float_float_generator_does_not_exist", "aten::save",
        "aten::load", "torch::add", "aten::", "aten::add.out\n", "quantized::add", "profiler::x",
        "aten::record_stream", "aten::_print", "aten::warn", "aten::as_strided",
        "aten::_reshape_alias", "aten::_convert_indices_from_csr_to_coo",
        "aten::_convert_indices_from_csr_to_coo.out", "aten::segment_reduce", "aten::set_",
    ],
)  # fmt: skip
def test_operators_that_no_bundle_may_name(name: str) -> None:
    with pytest.raises(FoundryError):
        operator(name)


OUTSIDE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a view of any memory": (
        lambda p: write(
            p,
            "aten::_reshape_alias",
            form([VECTOR, ["l", "i"], ["l", "i"]], [], [["t", "float32", 1, 0]]),
            [*tensor(0), 4, 1 << 40, *tensor(64)],
        ),
        "'aten::_reshape_alias', which a bundle may not do",
    ),
    "indices that nobody checks": (
        lambda p: write(
            p,
            "aten::_convert_indices_from_csr_to_coo",
            form([["t", "int64", 1, 0], ["t", "int64", 1, 0]]),
            [*tensor(0), *tensor(64)],
        ),
        "'aten::_convert_indices_from_csr_to_coo', which a bundle may not do",
    ),
    "an output that overlaps itself": (
        lambda p: write(p, words=[*tensor(0), *tensor(64), 1, *tensor(128, stride=0)]),
        "node 0, aten::add.out: a tensor that it writes overlaps itself",
    ),
    "a tensor beyond the arena": (words(0, SIZE), "does not fit the arena"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_would_leave_its_tensors_is_refused_by_verify_too(case: str, tmp_path: Path) -> None:
    make, message = OUTSIDE[case]
    bundle = make(tmp_path / "a.fdy")
    with pytest.raises(FoundryError, match=message):
        run(bundle)
    verified = CliRunner().invoke(app, ["verify", str(bundle)], env={"COLUMNS": "300"})
    assert verified.exit_code == 1
    assert message in " ".join(verified.output.split())


def test_an_operator_off_the_list_is_refused_at_open(tmp_path: Path) -> None:
    bundle = write(tmp_path / "a.fdy", "aten::as_strided")
    with pytest.raises(OperatorNotAdmitted, match="aten::as_strided"):
        Session.open(bundle)


def test_verify_takes_what_runs(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["verify", str(write(tmp_path / "a.fdy"))]).exit_code == 0


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(WORDS) - 1), st.integers(0, 2**64 - 1)), max_size=3))
def test_any_words_stay_inside_the_arena(
    changes: list[tuple[int, int]],
) -> None:
    changed = list(WORDS)
    for index, value in changes:
        # Mostly small numbers, which are the ones that nearly fit.
        changed[index] = value if value % 5 == 0 else value % (SIZE + 8)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.fdy", words=changed)
        try:
            run(path)
        except FoundryError:
            return
    ends = [changed[i] + (changed[i + 1] - 1) * changed[i + 2] * 4 + 4 for i in (0, 3, 7)]
    sizes = [changed[i] for i in (1, 4, 8)]
    assert all(n == 0 or end <= SIZE for n, end in zip(sizes, ends, strict=True))


@settings(max_examples=150)
@given(st.binary(max_size=40), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_any_skeleton_runs_or_is_refused(junk: bytes, start: int, end: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fdy"
        try:
            run(write(path, skeleton=GOOD[:start] + junk + GOOD[end:]))
        except FoundryError as refused:
            assert str(refused)
