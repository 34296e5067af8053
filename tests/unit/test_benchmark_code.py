"""Code that a model wrote: it runs where it can touch nothing, and is right where tests pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.judge import humaneval, sandbox

ADDS = "def add(a, b):\n    return a + b"
PROBLEM = {
    "prompt": "from math import sqrt\n\ndef root(x):\n    '''Of x.'''\n",
    "entry_point": "root",
    "test": "def check(f):\n    assert f(9) == 3",
}


@pytest.mark.parametrize(
    ("code", "right"),
    [
        (ADDS, True),
        ("import math, re, collections, itertools\n" + ADDS, True),
        (ADDS.replace("+", "-"), False),
        ("def add(a, b):", False),
        (ADDS + "\nraise SystemExit(0)", False),
        ("while True:\n    pass", False),
        (ADDS + "\nx = bytearray(1 << 33)", False),
    ],
)
def test_code_is_right_where_its_tests_run_to_their_end(
    code: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    assert sandbox.passes(code, "assert add(2, 3) == 5") == right


@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w')",
        "import os; os.remove({path!r})",
        "import os; os.open({path!r}, os.O_WRONLY)",
        "import pathlib; pathlib.Path({path!r}).unlink()",
        "import shutil; shutil.rmtree({folder!r})",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.socket()",
        "import ctypes; ctypes.CDLL(None)",
        "import os; os.fork()",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_code_can_touch_nothing(code: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    assert not sandbox.passes(code.format(path=str(kept), folder=str(tmp_path)), "")
    assert kept.read_text() == "kept"


def test_an_answer_that_names_tests_is_right_where_they_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(humaneval, "_problems", lambda: {"HumanEval/900": PROBLEM})
    body = "def root(x):\n    return sqrt(x)\n"
    for text, right in (
        (f"Here it is:\n```python\n{body}```\nIt takes the root.", True),
        (body, True),
        (f"```python\n{body}", True),
        (body.replace("sqrt(x)", "x"), False),
        ("I do not know.", False),
    ):
        assert humaneval.is_right(text, "HumanEval/900", "") == right
    assert humaneval.is_right("It is 7.", "7", "") and not humaneval.is_right("8", "7", "")
