"""The GPU tests' runner: a file that fails, hangs or crashes costs no other file its result."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import pytest

from tests.gpu import suite

FILES = {
    "good": "import pytest\ndef test_1(): pass\n@pytest.mark.alone\ndef test_2(): pass\n",
    "bad": "def test_1(): pass\ndef test_2(): assert False\n",
    "hangs": "import time\ndef test_1(): pass\ndef test_2(): time.sleep(600)\n",
    "crashes": "import os\ndef test_1(): os.abort()\n",
    "unimportable": "import no_such_module\n",
    "skipped": "import pytest\ndef test_1(): pytest.skip('no GPU')\n",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Exit status and outcomes by name of a suite of these files."""
    monkeypatch.setattr(suite, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(suite, "FILE_SECONDS", 8)
    monkeypatch.setenv("OUT", str(tmp_path))
    # Of the plugins that are installed, which take a second, these files need this one.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_timeout")

    def call(*names: str):
        files = [tmp_path / f"test_{name}.py" for name in names]
        for name, file in zip(names, files, strict=True):
            file.write_text(FILES[name])
        monkeypatch.setattr(sys, "argv", ["suite.py", *map(str, files)])
        status = suite.main()
        rows = json.loads((tmp_path / "reports" / "summary.json").read_text())
        return status, {row["name"].removeprefix("test_"): row for row in rows}

    return call


def test_trouble_is_told_and_stays_with_its_file(run, tmp_path: Path, capsys) -> None:
    names = ("good", "bad", "hangs", "crashes", "unimportable")
    status, rows = run(*names)
    assert status == 1
    counts = {n: (row["passed"], row["failed"]) for n, row in rows.items()}
    assert counts["good"] == (1, 0) and not rows["good"]["trouble"]
    assert counts["bad"] == (1, 1)
    assert counts["hangs"] == (1, 0) and "out of time" in rows["hangs"]["trouble"]
    assert "exit status -6" in rows["crashes"]["trouble"]
    assert counts["unimportable"] == (0, 1)
    # The marked test ran, though a file beside its own cannot be imported.
    assert rows["alone"]["passed"] == 1
    printed = capsys.readouterr().out
    assert "no_such_module" in printed and "in trouble: " in printed
    with tarfile.open(tmp_path / "test-gpu.tgz") as archive:
        assert {f"test-gpu/test_{name}.log" for name in names} < set(archive.getnames())


def test_passed_and_skipped_are_fine(run) -> None:
    status, rows = run("good", "skipped")
    assert status == 0
    assert rows["skipped"]["skipped"] == 1


def test_nothing_but_skips_is_no_success(run, capsys) -> None:
    status, rows = run("skipped")
    assert status == 1
    assert "nothing was tested: no GPU" in capsys.readouterr().out
    assert list(rows) == ["skipped"]


def test_what_has_no_time_left_is_not_begun(tmp_path, monkeypatch) -> None:
    assert [o.trouble for o in suite.run(suite.deque([("late", [])]), 1, 0.0)] == ["not begun"]
