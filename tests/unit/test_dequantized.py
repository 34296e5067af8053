"""Dequantized weights that an earlier start kept: the same values, and never anybody else's."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt import dequantized
from foundryrt.bundle.schema import WeightCopy, WeightFile, WeightRecipe, Weights, WeightSource
from foundryrt.convert import decode_source
from foundryrt.dequantized import LIMIT, decode_kept
from foundryrt.errors import UsageError
from foundryrt.host.weights import load
from foundryrt.weight_files import file_states

ROWS, COLUMNS = 4, 64
ENTRY = 64 + 4 * ROWS * COLUMNS


def stored(seed: int = 0) -> tuple[WeightSource, memoryview]:
    values = np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    data = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0).tobytes()
    source = WeightSource(
        0, "w", 0, len(data), "Q8_0", ROWS, COLUMNS, blake3=blake3(data).digest()
    )  # fmt: skip
    return source, memoryview(data)


class Home:
    """A user's cache folder, and how often something was dequantized."""

    def __init__(self, path: Path) -> None:
        self.folder = path / "foundry" / "weights"
        self.dequantized = 0

    def ask(self, seed: int = 0, dtype: str = "float32") -> None:
        """Ask for a tensor; it must be right."""
        source, data = stored(seed)
        found = decode_kept(source, data, dtype)
        expected = decode_source(source, data, dtype)
        assert found.dtype == expected.dtype and np.array_equal(found, expected)

    def kept(self, seed: int = 0, dtype: str = "float32") -> bool:
        """Ask, and say whether nothing had to be dequantized."""
        before = self.dequantized
        self.ask(seed, dtype)
        return self.dequantized == before

    @property
    def entries(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(LIMIT, "1")
    made = Home(tmp_path)

    def counted(*arguments):  # type: ignore[no-untyped-def]
        made.dequantized += 1
        return decode_source(*arguments)

    monkeypatch.setattr(dequantized, "decode_source", counted)
    dequantized._opened.cache_clear()
    return made


def test_a_tensor_is_dequantized_once_a_dtype(home: Home) -> None:
    for dtype in ("float32", "bfloat16"):
        assert not home.kept(0, dtype) and home.kept(0, dtype)
        dequantized._opened.cache_clear()
        assert home.kept(0, dtype)
    assert not home.kept(1) and home.kept(0)
    assert len(home.entries) == 3
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in home.entries)


def test_it_can_be_turned_off(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0")
    assert not home.kept() and not home.kept() and not home.folder.exists()
    for text in ("-1", "many", "inf", "nan"):
        monkeypatch.setenv(LIMIT, text)
        with pytest.raises(UsageError, match="a number of GB"):
            home.ask()


def test_what_is_not_quantized_is_not_kept(home: Home) -> None:
    data = np.ones(8, np.float32).tobytes()
    source = WeightSource(0, "w", 0, 32, "float32", 2, 4, blake3=blake3(data).digest())
    assert decode_kept(source, memoryview(data), "bfloat16").shape == (2, 4)
    assert not home.folder.exists()


def make_others_file(entry: Path) -> None:
    entry.chmod(0o620)


def make_link(entry: Path) -> None:
    elsewhere = entry.parent.parent / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)


def make_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def make_folder(entry: Path) -> None:
    entry.unlink()
    entry.mkdir()


def open_folder(entry: Path) -> None:
    entry.parent.chmod(0o777)


@pytest.mark.parametrize(
    "change", [make_others_file, make_link, make_pipe, make_folder, open_folder]
)
def test_what_others_may_have_written_is_not_read(
    home: Home, change: Callable[[Path], None]
) -> None:
    home.ask()
    change(home.entries[0])
    assert not home.kept()


def test_another_users_folder_is_neither_read_nor_written(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home.ask()
    before = [entry.read_bytes() for entry in home.entries]
    dequantized._opened.cache_clear()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with caplog.at_level(logging.WARNING, "foundry"):
        assert not home.kept() and not home.kept(1)
    assert [entry.read_bytes() for entry in home.entries] == before
    assert [record.message.count("another user's") for record in caplog.records] == [1]


def test_no_folder_costs_time_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home.folder.parent.mkdir()
    home.folder.write_text("a file")
    with caplog.at_level(logging.WARNING, "foundry"):
        home.ask(0)
        home.ask(1)
    assert len(caplog.records) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    home.ask()


@settings(max_examples=40)
@given(st.data())
def test_a_damaged_entry_is_made_anew(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("XDG_CACHE_HOME", folder)
        patch.setenv(LIMIT, "1")
        dequantized._opened.cache_clear()
        made = Home(Path(folder))
        made.ask()
        entry = made.entries[0]
        content = bytearray(entry.read_bytes())
        assert len(content) == ENTRY
        if data.draw(st.booleans()):
            content[data.draw(st.integers(0, ENTRY - 1))] ^= data.draw(st.integers(1, 255))
        else:
            del content[data.draw(st.integers(0, ENTRY - 1)) :]
        entry.write_bytes(content)
        made.ask()
        made.ask()
        assert len(made.entries[0].read_bytes()) == ENTRY


def test_the_folder_is_bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, str(2.5 * ENTRY / 1e9))
    for seed in range(4):
        home.ask(seed)
    # What was just written stays: a model larger than the folder keeps a part.
    assert [home.kept(seed) for seed in range(4)] == [True, True, False, False]
    assert len(home.entries) == 2
    long_ago = time.time() - 2 * 86400
    for entry in home.entries:
        os.utime(entry, (long_ago, long_ago))
    assert home.kept(1)  # used, so the other goes first
    left = home.folder / ".x.0123456789ab.tmp"
    left.write_bytes(b"of a killed writer")
    os.utime(left, (long_ago - 1, long_ago - 1))
    assert not home.kept(2) and home.kept(2) and home.kept(1)
    assert len(home.entries) == 2 and not left.exists() and not home.kept(0)


def test_many_threads_keep_the_same(home: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(home.ask, [0, 1] * 16))
    assert len(home.entries) == 2 and home.kept(0) and home.kept(1)
    assert all(entry.stat().st_size == ENTRY for entry in home.entries)


def test_bytes_that_were_not_compared_are_not_kept(home: Home, tmp_path: Path) -> None:
    source, data = stored()
    (tmp_path / "w.gguf").write_bytes(data)
    weights = Weights(
        files=(WeightFile("w.gguf", len(data), str(tmp_path / "w.gguf")),),
        sources=(source,),
        recipes=(WeightRecipe(0, (WeightCopy(0, ROWS, COLUMNS),)),),
    )
    manifest = SimpleNamespace(weights=weights, tensors=[SimpleNamespace(dtype="float32")])
    target = np.zeros((ROWS, COLUMNS), np.float32)

    def load_all(check: bool, digested: set[int] | None = None) -> None:
        target[...] = 0
        states = file_states(manifest, None)  # type: ignore[arg-type]
        load(manifest, lambda index: target, None, check, None, 0, digested, states)  # type: ignore[arg-type]
        assert np.array_equal(target, decode_source(source, data, "float32"))

    load_all(check=False)
    load_all(check=True, digested=set())  # another rank compares them
    assert not home.folder.exists() or not home.entries
    home.dequantized = 0
    load_all(check=True)
    load_all(check=True)
    load_all(check=True, digested=set())
    assert len(home.entries) == home.dequantized == 1
    _, data = stored(1)
    (tmp_path / "w.gguf").write_bytes(data)
    load_all(check=False)
