"""The writer: what it writes is read back equal, and nothing half-written is ever in place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.atomic import check_output
from foundryrt.bundle import tables
from foundryrt.bundle.errors import InvalidValue, SectionMalformed, TensorOutOfBounds
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import (
    Function,
    Manifest,
    Region,
    Requirements,
    SectionKind,
    Tensor,
    Workload,
)
from foundryrt.bundle.writer import BundleWriter
from foundryrt.errors import FoundryError, UsageError


def manifest(**changes: object) -> Manifest:
    base = {
        "format_version": 1,
        "target": "host",
        "workload": Workload(name="test", settings={}),
        "requirements": Requirements(memory=4096),
        "producer": {},
        "provenance": {},
        "regions": (Region(name="io", base=0, size=4096),),
    }
    return Manifest(**{**base, **changes})


@settings(max_examples=50)
@given(st.lists(st.tuples(st.binary(max_size=9000), st.booleans()), max_size=5))
def test_sections_round_trip(tmp_path_factory: pytest.TempPathFactory, contents: list) -> None:
    path = tmp_path_factory.mktemp("bundle") / "a.fdy"
    with BundleWriter(path) as writer:
        for number, (data, compress) in enumerate(contents):
            writer.add(SectionKind.FILE, f"{number}", [data[:7], data[7:]], compress=compress)
        writer.finish(manifest())
    with Bundle.open(path) as bundle:
        bundle.verify()
        assert [bundle.file(name) for name in bundle.files] == [data for data, _ in contents]
        digests = {bundle.file_digest(name) for name in bundle.files}
        assert len(digests) >= len({data for data, _ in contents})
        assert all(section.offset % 4096 == 0 for section in bundle.sections)


@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_a_link_and_the_bundle_is_where_it_leads(tmp_path: Path, there: bool) -> None:
    link, disk = tmp_path / "a.fdy", tmp_path / "disk"
    disk.mkdir()
    link.symlink_to(disk / "b.fdy")
    if there:
        link.write_bytes(b"old")
    with BundleWriter(link) as writer:
        writer.finish(manifest())
    assert link.is_symlink()
    Bundle.open(disk / "b.fdy").close()
    assert {*tmp_path.iterdir(), *disk.iterdir()} == {disk, link, disk / "b.fdy"}


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("a.fdy", FoundryError, "a.fdy: cannot be written: Too many levels of symbolic links"),
        ("gone/../b.fdy", UsageError, "does not exist"),
        ("gone/", FoundryError, "a.fdy: cannot be written: Is a directory"),
        ("disk/..", FoundryError, "a.fdy: cannot be written: Is a directory"),
        ("disk", UsageError, "a.fdy: is a folder; name a file such as"),
        ("/dev/null", UsageError, "a.fdy: is not a regular file"),
        ("/dev/stdout", UsageError, "a.fdy: is what a process has open; name a file"),
        ("/dev/fd/1", UsageError, "a.fdy: is what a process has open; name a file"),
        ("n" * 240, FoundryError, "a.fdy: cannot be written: File name too long"),
    ],
)
def test_a_link_that_leads_to_no_file_is_refused_at_once(
    tmp_path: Path, target: str, error: type[FoundryError], message: str
) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.fdy"
    link.symlink_to(target)
    with pytest.raises(error, match=message):
        check_output(link)
    assert os.readlink(link) == target
    assert {path.name for path in tmp_path.rglob("*")} == {"disk", "a.fdy"}


def test_a_link_into_no_folder_is_refused_by_the_folder(tmp_path: Path) -> None:
    link = tmp_path / "a.fdy"
    link.symlink_to(tmp_path / "gone" / "b.fdy")
    with pytest.raises(UsageError, match="gone does not exist"):
        BundleWriter(link)
    assert link.is_symlink()


def test_names_are_as_long_as_cplusplus_makes_them(tmp_path: Path) -> None:
    """CUTLASS' mangled names have thousands of letters, and nothing bounds them."""
    path, name = tmp_path / "a.fdy", "_ZN7cutlass" * 4000
    functions = (Function(name=name), Function(name="x" * 5000))
    with BundleWriter(path) as writer:
        writer.finish(manifest(functions=functions))
    with Bundle.open(path) as bundle:
        bundle.verify()
        assert bundle.manifest.functions == functions
    with BundleWriter(path) as writer, pytest.raises(InvalidValue) as raised:
        writer.finish(manifest(functions=(Function(name=name + "\x1b"),)))
    assert len(str(raised.value)) < 400


def test_what_is_not_utf8_is_named(tmp_path: Path) -> None:
    workload = Workload(name="test", settings={"model": "/models/\udcff"})
    with (
        BundleWriter(tmp_path / "a.fdy") as writer,
        pytest.raises(FoundryError, match=r"'/models/\\udcff' is not UTF-8"),
    ):
        writer.finish(manifest(workload=workload))
    assert not list(tmp_path.iterdir())


def test_a_name_without_room_is_refused_at_once(tmp_path: Path) -> None:
    with (
        BundleWriter(tmp_path / "a.fdy") as writer,
        pytest.raises(SectionMalformed, match="1 to 64 bytes"),
    ):
        writer.add(SectionKind.FILE, "é" * 33, b"")


def test_no_manifest_has_msgspec_learn_its_types_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that had it do so crashed some 1 in 30 processes that opened three bundles."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a manifest is decoded by a decoder that was made at import")

    monkeypatch.setattr("msgspec.msgpack.decode", refuse)
    (golden, *_) = sorted((Path(__file__).parents[2] / "artifacts").glob("*.fdy"))
    with Bundle.open(golden) as bundle:
        assert bundle.manifest.graphs


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.integers(0, 999), st.integers(0, 2**64 - 1), max_size=20
    )
)  # fmt: skip
def test_member_words_round_trip(changes: dict[int, int]) -> None:
    words = sorted(changes)
    columns = {"word": words, "value": np.array([changes[w] for w in words], np.uint64)}
    packed, data = tables.pack(columns, tables.MEMBER_COLUMNS)
    arrays = tables.unpack(packed, tables.MEMBER_COLUMNS, memoryview(data))
    assert dict(zip(arrays["word"].tolist(), arrays["value"].tolist(), strict=True)) == changes


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with BundleWriter(tmp_path / name) as writer:
            writer.add(SectionKind.FILE, "x", bytes(10_000))
            writer.finish(manifest())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.fdy"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), BundleWriter(path) as writer:
        writer.add(SectionKind.FILE, "x", b"data")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a.fdy"]
    assert path.read_bytes() == b"old"


def test_an_invalid_bundle_is_never_put_in_place(tmp_path: Path) -> None:
    wild = Tensor(
        name="x", region=0, offset=4096, dtype="int8", shape=(1,), strides=(1,), role="input"
    )
    with pytest.raises(TensorOutOfBounds), BundleWriter(tmp_path / "a.fdy") as writer:
        writer.finish(manifest(tensors=(wild,)))
    assert os.listdir(tmp_path) == []


def test_long_section_name(tmp_path: Path) -> None:
    with pytest.raises(SectionMalformed, match="64 bytes"), BundleWriter(tmp_path / "a") as writer:
        writer.add(SectionKind.FILE, "x" * 65, b"")
        writer.finish(manifest())


def test_where_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        BundleWriter(tmp_path / "none" / "a.fdy")
    with pytest.raises(UsageError, match="is a folder"):
        BundleWriter(tmp_path)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FoundryError, match="No space left"), BundleWriter(tmp_path / "a") as writer:
        writer.finish(manifest())
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from tests.unit.test_bundle_writer import manifest
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import SectionKind
from foundryrt.bundle.writer import BundleWriter

def write_without_end(path, written):
    number = 0
    while True:
        number += 1
        with BundleWriter(path) as writer:
            data = str(number).encode() * 200_000
            writer.add(SectionKind.FILE, "number", data, compress=False)
            writer.finish(manifest())
        os.write(written, b"1")

for moment in range(15):
    ready, written = os.pipe()
    child = os.fork()
    if child == 0:
        write_without_end(sys.argv[2], written)
    os.read(ready, 1)
    time.sleep(0.0007 * moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    os.close(ready)
    os.close(written)
    with Bundle.open(sys.argv[2]) as bundle:
        bundle.verify()
"""


def test_killed_at_any_point(tmp_path: Path) -> None:
    """Processes that write without end are killed at 15 moments: the file is always whole."""
    words = [str(Path(__file__).parents[2]), str(tmp_path / "a.fdy")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Bundle.open(tmp_path / "a.fdy") as bundle:
        bundle.verify()
