"""Lines of prompts that cannot be read are named before any answer begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundryrt.errors import UsageError
from parse_runtime.jobs import Defaults, read
from parse_runtime.roles import Sampling
from parse_runtime.rules import Rules

NOTHING: Any = None
"""No line here comes so far that prompts were needed."""
DEFAULTS = Defaults(8, Sampling(), [], Rules())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", "JSON"),
        (b'{"prompt": "x", "stride": 1}', "stride"),
        (b'{"prompt": "\xff"}', "utf-8"),
        (b'{"parse": {"x": ' + b"[" * 9999 + b"]" * 9999 + b"}}", "recursion"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\n" + line + b"\n")
    with pytest.raises(UsageError, match=f"lines.jsonl line 2: .*{message}"):
        read(str(path), NOTHING, DEFAULTS, 64)


def test_no_lines_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n\n")
    with pytest.raises(UsageError, match="no prompts"):
        read(str(tmp_path / "empty"), NOTHING, DEFAULTS, 64)
    with pytest.raises(UsageError, match="No such file"):
        read(str(tmp_path / "missing"), NOTHING, DEFAULTS, 64)
