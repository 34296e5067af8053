"""Files put into a bundle that is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foundryc import sign
from foundryc.attach import attach
from foundryrt.bundle.errors import BundleError, SectionMalformed
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import SectionKind

GOLDEN = Path(__file__).parents[2] / "artifacts" / "v1-host-steps.fdy"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "steps.fdy"
    shutil.copy(GOLDEN, path)
    return path


def test_files_are_added_and_replaced_and_all_else_stays(bundle: Path) -> None:
    with Bundle.open(bundle) as before:
        manifest, sections = before.manifest, before.sections
    assert not attach(bundle, {"b.json": b"{}", "a.bin": b"x" * 9000})
    assert not attach(bundle, {"a.bin": b"", "c": b"new"})
    with Bundle.open(bundle) as after:
        after.verify()
        assert after.manifest == manifest
        assert after.sections[: len(sections)] == sections
        assert {name: after.file(name) for name in after.files[-3:]} == {
            "b.json": b"{}", "a.bin": b"", "c": b"new",
        }  # fmt: skip
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name]


def test_a_link_stays_a_link_and_modes_stay(bundle: Path) -> None:
    bundle.chmod(0o640)
    link = bundle.with_name("link.fdy")
    link.symlink_to(bundle.name)
    attach(link, {"a": b"1"})
    assert link.is_symlink() and bundle.stat().st_mode & 0o777 == 0o640
    with Bundle.open(bundle) as opened:
        assert opened.file("a") == b"1"


def test_signatures_are_gone_and_that_is_said(bundle: Path) -> None:
    key = bundle.with_name("k.key")
    sign.create_key(key)
    sign.sign(bundle, key)
    assert attach(bundle, {"a": b"1"})
    with Bundle.open(bundle) as opened:
        assert not opened.signatures
        assert all(section.kind != SectionKind.SIGNATURE for section in opened.sections)
    assert not attach(bundle, {"a": b"2"})


def test_a_failure_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    whole = bundle.read_bytes()
    with pytest.raises(SectionMalformed):
        attach(bundle, {"a" * 65: b"1"})
    assert bundle.read_bytes() == whole
    damaged = bytearray(whole)
    damaged[4096] ^= 1
    bundle.write_bytes(damaged)
    with pytest.raises(BundleError):
        attach(bundle, {"a": b"1"})
    assert bundle.read_bytes() == bytes(damaged) and len(list(bundle.parent.iterdir())) == 1
