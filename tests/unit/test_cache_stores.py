"""S3 against moto's server, OCI against Debian's docker-registry, both on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundryc.cache.flight import obtain
from foundryc.cache.manage import collect, verify
from foundryc.cache.stores import open_store
from foundryc.cache.stores.base import Store
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import UsageError
from foundryrt.remote.bundle import open_bundle
from tests.unit.cache_samples import KEY, sealed

WORKER = Path(__file__).with_name("cache_worker.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"no server on port {port}")


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    pytest.importorskip("moto.server")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("FOUNDRY_CACHE_LEASE", "3")
    from s3fs import S3FileSystem

    fs = S3FileSystem(skip_instance_cache=True)
    bucket = f"bucket-{time.time_ns()}"
    fs.mkdir(bucket)
    return f"s3://{bucket}/bundles"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\nstorage:\n"
        f"  filesystem: {{rootdir: '{folder}/data'}}\n  delete: {{enabled: true}}\n"
    )
    server = subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port)
        yield f"oci://127.0.0.1:{port}/team/bundles"
    finally:
        server.kill()
        server.wait()


def build(path: Path) -> None:
    sealed(path)


def round_trip(store: Store, folder: Path) -> None:
    """Miss, hit, list, check, refuse another key's bundle, evict."""
    said: list[str] = []
    first, second = folder / "a.fdy", folder / "b.fdy"
    assert not store.fetch(KEY, folder / "none")
    assert obtain(store, KEY, first, build, said.append) == "captured"
    assert obtain(store, KEY, second, build, said.append) == "hit"
    assert first.read_bytes() == second.read_bytes() and said == []
    (entry,) = store.entries()
    assert (entry.key, entry.size) == (KEY, first.stat().st_size)
    assert verify(store) == {KEY: ""}
    sealed(folder / "other.fdy", 1)
    store.put(KEY, folder / "other.fdy")
    assert obtain(store, KEY, second, build, said.append) == "captured"
    assert len(said) == 1 and "refused" in said[0]
    assert obtain(store, KEY, second, build, said.append) == "hit"
    assert [entry.key for entry in collect(store, 0)] == [KEY]
    assert store.entries() == []


def test_s3(s3: str, tmp_path: Path) -> None:
    round_trip(open_store(s3), tmp_path)


def test_a_bundle_runs_from_s3(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    sealed(tmp_path / "a.fdy")
    open_store(s3).put(KEY, tmp_path / "a.fdy")
    with open_bundle(f"{s3}/{KEY}.fdy") as bundle:
        bundle.verify()
        with Bundle.open(tmp_path / "a.fdy") as stored:
            assert bundle.digest == stored.digest


def test_s3_single_flight_and_takeover(s3: str, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def worker(name: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, str(WORKER), s3, str(tmp_path / name), str(log), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    owner = worker("owner.fdy", 600)
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    others = [worker(f"{i}.fdy", 0.5) for i in range(3)]
    time.sleep(5)  # longer than a claim lasts that is not renewed
    assert log.read_text() == "captured\n", "a renewed claim was taken over"
    owner.kill()
    owner.wait()
    outcomes = sorted(other.communicate(timeout=300)[0].strip() for other in others)
    assert outcomes == ["captured", "hit", "hit"]
    assert log.read_text() == "captured\n" * 2


def test_oci(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    round_trip(open_store(registry), tmp_path)


@pytest.mark.parametrize("url", ["s3://", "s3:///", "http://", "https:///a", "oci://", "oci:///a"])
def test_a_url_that_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=f"{url}: write "):
        open_store(url)


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: is a file; name a folder"):
        open_store(str(tmp_path / "file"))
