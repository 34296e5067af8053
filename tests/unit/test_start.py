"""The command's own start: what it makes of a bundle before anything is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import foundryc.start
from foundryrt import peek, start
from foundryrt.arguments import bundle_word
from foundryrt.bundle.schema import SectionKind
from foundryrt.bundle.writer import BundleWriter
from tests.attacks.samples import parts
from tests.unit.test_bundle_writer import manifest
from tests.unit.test_imports import imported


def test_a_bundle_with_kernels_is_one_for_a_device(tmp_path: Path) -> None:
    assert peek.on_device(str(parts().write(tmp_path / "cuda.fdy")))
    with BundleWriter(tmp_path / "host.fdy") as writer:
        writer.add(SectionKind.FILE, "x", bytes(10_000))
        writer.finish(manifest())
    assert not peek.on_device(str(tmp_path / "host.fdy"))
    assert not peek.on_device(str(tmp_path / "none.fdy"))
    assert not peek.on_device(str(tmp_path))


@given(head=st.binary(max_size=20), rest=st.binary(max_size=300))
def test_nothing_that_is_in_the_file_matters(
    head: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("start") / "x.fdy"
    for data in (head + rest, b"FDY\1" + head + rest):
        path.write_bytes(data)
        assert peek.on_device(str(path)) in (True, False)


def test_an_interrupt_of_the_imports_ends_the_command_quietly(monkeypatch) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "bundle_word", interrupt)
    with pytest.raises(SystemExit) as ended:
        start.main()
    assert ended.value.code == 130


@pytest.mark.parametrize("moment", ["imports", "command"])
def test_an_interrupt_of_foundryc_is_quiet_too(moment: str, monkeypatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    if moment == "command":
        monkeypatch.setitem(sys.modules, "foundryc.cli", SimpleNamespace(main=interrupt))
        monkeypatch.setattr(foundryc, "cli", sys.modules["foundryc.cli"], raising=False)
    else:
        monkeypatch.delitem(sys.modules, "foundryc.cli", raising=False)
        monkeypatch.delattr(foundryc, "cli", raising=False)
        monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=lambda *_: interrupt())])
    with pytest.raises(SystemExit) as ended:
        foundryc.start.main()
    assert ended.value.code == 130


def test_the_driver_waits_for_no_imports() -> None:
    modules, _ = imported(
        "from foundryrt import start; start.on_device('x'); import foundryrt.cuda.early"
    )
    assert "ctypes" in modules
    assert not modules & {"msgspec", "zstandard", "hashlib", "inspect", "numpy"}


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("a.fdy --frames 5", 0),
        ("bundle --prompt x.fdy", 0),
        ("--frames 5 a.fdy", 2),
        ("--json a.fdy", 1),
        ("--prompt x.fdy a.fdy", 2),
        ("--prompt=x.fdy a.fdy", 1),
        ("--snr -5 bundle", 2),
        ("--snr 5 bundle --json", 2),
        ("--snr 5", -1),
        ("", -1),
    ],
)
def test_the_bundle_among_the_options(words: str, place: int) -> None:
    assert bundle_word(words.split()) == place
