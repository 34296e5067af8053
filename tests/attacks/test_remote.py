"""Bundles by URL: what is fetched when, the copy that stays, and servers that lie."""

from __future__ import annotations

import gc
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from foundryc.sign import create_key, sign
from foundryrt.bundle.errors import NotABundle, SectionDigestMismatch
from foundryrt.bundle.layout import HEADER_BYTES
from foundryrt.errors import Denied, FoundryError, Unreachable, UsageError
from foundryrt.remote import attempts, copies
from foundryrt.remote.bundle import open_bundle
from foundryrt.trust import NotSigned, Trust
from tests.attacks.samples import parts
from tests.attacks.servers import (
    Behaviour,
    cut_off,
    endless,
    honest,
    huge,
    no_ranges,
    server,
    shorter,
    slow,
)  # fmt: skip


def limit(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    limits = attempts.Limits(attempts=3, backoff=0.01, seconds=seconds, chunk=4096)
    monkeypatch.setattr(attempts, "LIMITS", limits)


OTHERS: set[threading.Thread] = set()
"""Threads that were there before a test, such as those of another file's pool."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, short pauses, and no copy left from another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    limit(monkeypatch, 60)
    copies._begun.clear()
    OTHERS.clear()
    OTHERS.update(threading.enumerate())
    yield tmp_path
    finish()


def join() -> None:
    """Wait for the background's fetching, as the end of a process does."""
    for thread in threading.enumerate():
        if thread not in OTHERS and not thread.daemon:
            thread.join()


def finish() -> None:
    """The end of a process, and then as a new one."""
    join()
    copies._begun.clear()


def sample(folder: Path) -> bytes:
    return parts().write(folder / "sample.fdy").read_bytes()


def recording(seen: list[tuple[int, int]]) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
        seen.append((start, end))
        honest(handler, data, start, end)

    return behave


def test_sections_are_fetched_when_they_are_used(home: Path, monkeypatch) -> None:
    data = sample(home)
    monkeypatch.setattr(copies.Copy, "fill", lambda self, sections: None)
    seen: list[tuple[int, int]] = []
    with server(data, recording(seen)) as url, open_bundle(f"{url}/a.fdy") as bundle:
        opened = len(seen)
        used = {s.offset for s in bundle.sections} & {start for start, _ in seen}
        assert len(used) == 1  # The manifest alone.
        kernel = bundle.sections[bundle.manifest.kernels[0].section]
        bundle.kernel(0)
        bundle.kernel(0)
        assert seen[opened:] == [(kernel.offset, kernel.offset + kernel.stored)]
        copies.copy_of(f"{url}/a.fdy").discard()


def test_the_copy_is_the_bundle_and_works_offline(home: Path, caplog) -> None:
    data = sample(home)
    with server(data, honest) as url:
        with open_bundle(f"{url}/a.fdy") as bundle:
            bundle.verify()
        finish()
    assert copies.complete_copy(f"{url}/a.fdy").read_bytes() == data
    assert not list(copies.folder().glob("*.part"))
    with open_bundle(f"{url}/a.fdy") as bundle:
        bundle.verify()
    assert "copy of an earlier run" in caplog.text


def test_a_second_run_fetches_the_header_alone(home: Path) -> None:
    seen: list[tuple[int, int]] = []
    with server(sample(home), recording(seen)) as url:
        for _ in range(2):
            before = len(seen)
            with open_bundle(f"{url}/a.fdy") as bundle:
                bundle.verify()
            finish()
    assert seen[before:] == [(0, HEADER_BYTES)]


def test_one_process_opens_again_what_is_complete(home: Path) -> None:
    with server(sample(home), honest) as url, open_bundle(f"{url}/a.fdy") as first:
        join()
        with open_bundle(f"{url}/a.fdy") as second:
            second.verify()
        first.verify()


def test_a_bundle_in_use_outlives_a_copy_that_failed(home: Path, caplog) -> None:
    healthy = [False]

    def behave(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
        (honest if healthy[0] else tampered)(handler, data, start, end)

    with server(sample(home), behave) as url, open_bundle(f"{url}/a.fdy") as bundle:
        join()
        assert "is not kept here" in caplog.text
        with pytest.raises(SectionDigestMismatch, match=f"^{url}/a.fdy: section"):
            bundle.verify()
        healthy[0] = True
        bundle.verify()
    assert not list(copies.folder().iterdir())


def test_a_changed_bundle_is_fetched_again(home: Path) -> None:
    old, key = sample(home), home / "a.key"
    create_key(key)
    sign(home / "sample.fdy", key)
    new = (home / "sample.fdy").read_bytes()
    current = [old]

    def behave(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
        honest(handler, current[0], start, end)

    with server(old, behave) as url:
        for want in (old, new):
            current[0] = want
            open_bundle(f"{url}/a.fdy").close()
            finish()
            assert copies.complete_copy(f"{url}/a.fdy").read_bytes() == want


def test_of_an_untrusted_bundle_nothing_more_is_read(home: Path) -> None:
    data, key = sample(home), home / "a.key"
    create_key(key)
    seen: list[tuple[int, int]] = []
    with server(data, recording(seen)) as url, pytest.raises(NotSigned):
        open_bundle(f"{url}/a.fdy", Trust.load([key.with_suffix(".pem")]))
    table = int.from_bytes(data[8:16], "little")
    assert seen == [(0, HEADER_BYTES), (table, len(data))]
    assert not list(copies.folder().iterdir())


def tampered(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    """A flipped bit in the first section."""
    honest(handler, data[:4096] + bytes([data[4096] ^ 1]) + data[4097:], start, end)


@pytest.mark.parametrize(
    ("behave", "error"),
    [(endless, FoundryError), (cut_off, Unreachable), (slow, Unreachable), (huge, FoundryError),
     (no_ranges, Unreachable), (shorter, FoundryError), (tampered, SectionDigestMismatch)],
)  # fmt: skip
def test_bad_servers(
    home: Path, behave: Behaviour, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 0.5 if behave is slow else 60)
    with server(sample(home), behave) as url, pytest.raises(error):
        bundle = open_bundle(f"{url}/a.fdy")
        bundle.verify()
    finish()
    assert not copies.complete_copy(f"{url}/a.fdy").exists()
    assert not list(copies.folder().glob("*.part"))


def test_remains_of_killed_processes_go(home: Path) -> None:
    copies.folder().mkdir(parents=True)
    (copies.folder() / "dead.part").write_bytes(b"half")
    with server(sample(home), honest) as url:
        open_bundle(f"{url}/a.fdy").close()
        finish()
    assert [path.suffix for path in copies.folder().iterdir()] == [".fdy"]


@pytest.mark.parametrize(
    "url",
    ["http://user:hunter2@127.0.0.1/a.fdy", "s3://bucket/a.fdy?token=hunter2",
     "https://127.0.0.1/a.fdy#hunter2", "ftp://127.0.0.1/a.fdy?hunter2",
     "ftp://127.0.0.1/a.fdy", "s3://bucket", "oci://127.0.0.1/team/a"],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as refusal:
        open_bundle(url)
    assert "hunter2" not in str(refusal.value)


def test_a_signed_url(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its query reaches the server as it is, and nothing else; the next one finds the copy."""
    data, paths = sample(home), []

    def behave(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
        paths.append(handler.path)
        if "expired" in handler.path:
            handler.send_error(403)
        else:
            honest(handler, data, start, end)

    query = "X-Amz-Signature=hunter2%2Fa+b%20c&sig=%7E"
    with server(data, behave) as url:
        with open_bundle(f"{url}/a%20b.fdy?{query}") as bundle:
            bundle.verify()
        finish()
        assert set(paths) == {f"/a%20b.fdy?{query}"}
        paths.clear()
        with open_bundle(f"{url}/a%20b.fdy?other=hunter2") as bundle:
            assert bundle.path == copies.complete_copy(f"{url}/a%20b.fdy")
        finish()
        assert len(paths) == 1
        with pytest.raises(Denied, match="answers 403, access is denied") as denied:
            open_bundle(f"{url}/a%20b.fdy?expired=hunter2")
    # Without the server nobody can tell which of many files a query names.
    with pytest.raises(Unreachable) as gone:
        open_bundle(f"{url}/a%20b.fdy?third=hunter2")
    assert not any("hunter2" in text for text in (str(denied.value), str(gone.value), caplog.text))
    assert all(b"hunter2" not in path.read_bytes() for path in copies.folder().iterdir())


@pytest.mark.parametrize(("status", "says"), [(401, "wants credentials"), (403, "denied")])
def test_access_that_is_refused(status: int, says: str) -> None:
    asked = []

    def behave(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
        asked.append(start)
        handler.send_error(status)

    with server(b"", behave) as url, pytest.raises(Denied, match=f"answers {status}.*{says}"):
        open_bundle(f"{url}/a.fdy")
    assert len(asked) == 1


def test_a_store_that_denies_access_is_asked_once() -> None:
    asked = []

    def call() -> None:
        asked.append(1)
        raise PermissionError("Access Denied: key AKIA-hunter2")  # As S3's library says it.

    with pytest.raises(Denied, match="access is denied; check the credentials") as denied:
        attempts.attempt("s3://bucket", call, (OSError,))
    assert len(asked) == 1 and "hunter2" not in str(denied.value)


@pytest.mark.parametrize("place", ["file", "none"])
def test_a_home_that_cannot_be_written_to(
    home: Path, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    temporary = home / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(copies.tempfile, "tempdir", str(temporary))
    if place == "file":
        (home / "home").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / "home"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", classmethod(no_home))
    with server(sample(home), honest) as url:
        for _ in range(2):
            with open_bundle(f"{url}/a.fdy") as bundle:
                bundle.verify()
                join()
            (copy,) = temporary.iterdir()
            assert bundle.path == copy
        assert "is not kept" in caplog.text
        del bundle
        copies._begun.clear()
        gc.collect()
        assert not list(temporary.iterdir())


def no_home(cls: type[Path]) -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_missing_bundle() -> None:
    def missing(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
        handler.send_error(404)

    with server(b"", missing) as url, pytest.raises(UsageError, match="no such file"):
        open_bundle(f"{url}/a.fdy")


@pytest.mark.parametrize("value", ["x", "nan", "-1", "inf"])
def test_limits_that_cannot_be(value: str, monkeypatch) -> None:
    monkeypatch.setenv("FOUNDRY_CACHE_TIMEOUT", value)
    with pytest.raises(UsageError, match="FOUNDRY_CACHE_TIMEOUT"):
        attempts.setting("FOUNDRY_CACHE_TIMEOUT", "60", float)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "damaged.fdy"
    path.write_bytes(bytes(8192))
    with pytest.raises(NotABundle, match=r"damaged\.fdy: not a"):
        open_bundle(path)


@pytest.mark.parametrize(
    ("url", "error", "told"),
    [
        ("http://127.0.0.1:{closed}/a.fdy", Unreachable, "Connection refused in 3 attempts"),
        ("http://nowhere.invalid/a.fdy", Unreachable, "no machine of this name"),
        ("http://", UsageError, "write http"),
        ("http:///a.fdy", UsageError, "write http"),
        ("http://host:99999/a.fdy", UsageError, "write http"),
        ("http://[::1/a.fdy", UsageError, "no URL"),
    ],
)
def test_what_went_wrong_is_told(url: str, error: type[FoundryError], told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    address = url.format(closed=closed)
    with pytest.raises(error, match=re.escape(f"{address}: ") + f".*{told}"):
        open_bundle(address)


def test_s3_without_credentials_is_asked_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("another attempt"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(home / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Denied, match="no credentials for S3 are found"):
        open_bundle("s3://bucket/a.fdy")
