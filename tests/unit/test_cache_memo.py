"""Digests of files that are kept between processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foundryc.cache import memo
from foundryc.cache.digests import _of_contents, of_file

OLD = 10**9


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was changed long ago, in a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memo, "LEAST", 4)
    # Of an inode that was just made, the change time is now.
    monkeypatch.setattr(memo, "_SETTLED_NS", 0)
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    os.utime(path, ns=(OLD, OLD))
    _of_contents.cache_clear()
    return path


def entries(path: Path) -> list[Path]:
    return list((path.parent / "cache" / "foundry" / "digests").glob("*"))


def test_a_digest_is_kept_until_the_file_changes(file: Path) -> None:
    first = of_file(file)
    (kept,) = entries(file)
    # What is kept is what is taken: the file is not read again, in another process either.
    kept.write_text("a" * 64)
    _of_contents.cache_clear()
    assert of_file(file) == "a" * 64
    file.write_bytes(b"other")
    os.utime(file, ns=(OLD, OLD))
    assert of_file(file) not in (first, "a" * 64)
    assert len(entries(file)) == 2
    copy = file.with_name("copy")
    copy.write_bytes(b"first")
    assert of_file(copy) == first


@pytest.mark.parametrize("contents", ["", "a" * 63, "A" * 64, "a" * 65, "a" * 64 + "\n"])
def test_a_damaged_entry_is_made_again(file: Path, contents: str) -> None:
    digest = of_file(file)
    (kept,) = entries(file)
    kept.write_text(contents)
    _of_contents.cache_clear()
    assert of_file(file) == digest and kept.read_text() == digest


def test_small_and_fresh_files_are_not_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "LEAST", 6)
    of_file(file)
    monkeypatch.setattr(memo, "LEAST", 4)
    monkeypatch.setattr(memo, "_SETTLED_NS", 3600 * 10**9)
    of_file(file)
    assert not entries(file)


def test_without_a_folder_nothing_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.with_name("cache").touch()
    digest = of_file(file)
    assert len(digest) == 64
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    assert of_file(file) == digest
