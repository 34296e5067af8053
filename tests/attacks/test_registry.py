"""A registry that asks for credentials, in either way, and one that refuses them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from foundryc.cache.flight import obtain
from foundryc.cache.manage import collect, verify
from foundryc.cache.stores import open_store
from foundryrt.errors import Denied
from foundryrt.remote import attempts
from tests.unit.cache_samples import KEY, sealed

USER = base64.b64encode(b"robot:hunter2").decode()


class Registry(BaseHTTPRequestHandler):
    """As much of the OCI distribution API as a store needs; `scheme` is its challenge."""

    scheme = "basic"
    things: dict[str, bytes]
    seen: list[tuple[str, str]]

    def allowed(self) -> bool:
        sent = self.headers.get("Authorization", "")
        self.seen.append((self.command, sent))
        write = self.command not in ("GET", "HEAD")
        if self.scheme == "basic" and sent == f"Basic {USER}":
            return True
        if self.scheme == "bearer" and sent == f"Bearer {'push' if write else 'pull'}":
            return True
        scope = f'scope="repository:team/bundles:{"push" if write else "pull"}"'
        realm = f'realm="http://{self.headers["Host"]}/token"'
        self.answer(401, headers={"Www-Authenticate": f"{self.scheme.title()} {realm},{scope}"})
        return False

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            known = self.headers.get("Authorization") == f"Basic {USER}"
            token = "push" if "push" in self.path else "pull"
            self.answer(200 if known else 401, json.dumps({"token": token}).encode())
        elif self.allowed():
            name = self.path.rpartition("/")[2]
            if self.path.endswith("/tags/list"):
                tags = [name for name in self.things if re.fullmatch("[0-9a-f]{64}", name)]
                self.answer(200, json.dumps({"tags": tags}).encode())
            elif name not in self.things:
                self.answer(404)
            else:
                data = self.things[name]
                digest = "sha256:" + hashlib.sha256(data).hexdigest()
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
                self.answer(206 if asked else 200, part, {"Docker-Content-Digest": digest})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.allowed():
            self.answer(202, headers={"Location": "/v2/team/bundles/blobs/uploads/1"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.allowed():
            name = self.path.rpartition("/")[2]
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            self.things[digest if "digest=" in name else name] = body
            if "manifests" in self.path:
                self.things[digest] = body
            self.answer(201)

    def do_DELETE(self) -> None:
        if self.allowed():
            gone = self.things.pop(self.path.rpartition("/")[2])
            for name in [name for name, data in self.things.items() if data == gone]:
                del self.things[name]
            self.answer(202)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def registry(scheme: str) -> Iterator[tuple[str, type[Registry]]]:
    handler = type("Handler", (Registry,), {"scheme": scheme, "things": {}, "seen": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{http.server_address[1]}", handler
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    monkeypatch.setattr(attempts, "LIMITS", attempts.Limits(attempts=3, backoff=0.01))
    return tmp_path


def log_in(home: Path, host: str, credentials: str = USER) -> None:
    (home / ".docker").mkdir()
    login = {"auths": {host: {"auth": credentials}}}
    (home / ".docker" / "config.json").write_text(json.dumps(login))


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_credentials_are_sent(home: Path, scheme: str) -> None:
    with registry(scheme) as (host, handler):
        log_in(home, host)
        store = open_store(f"oci://{host}/team/bundles")
        first, second = home / "a.fdy", home / "b.fdy"
        said: list[str] = []

        def build(path: Path) -> None:
            sealed(path)

        assert obtain(store, KEY, first, build, said.append) == "captured"
        assert obtain(store, KEY, second, build, said.append) == "hit"
        assert first.read_bytes() == second.read_bytes() and said == []
        assert verify(store) == {KEY: ""}
        assert [entry.key for entry in collect(store, 0)] == [KEY]
        assert store.entries() == []
        # What the registry took once is not asked for again.
        refused = [sent for _, sent in handler.seen if sent == ""]
        assert len(refused) == 1


@pytest.mark.parametrize("scheme", ["basic", "bearer", "none"])
@pytest.mark.parametrize("known", [False, True], ids=["without", "wrong"])
def test_a_registry_that_refuses(home: Path, scheme: str, known: bool) -> None:
    with registry(scheme) as (host, handler):
        if known:
            log_in(home, host, base64.b64encode(b"robot:wrong").decode())
        store = open_store(f"oci://{host}/team/bundles")
        sealed(home / "a.fdy")
        for call in (
            lambda: store.fetch(KEY, home / "out"),
            lambda: store.put(KEY, home / "a.fdy"),
            store.entries,
            lambda: store.evict(KEY),
        ):
            with pytest.raises(Denied, match=r"answers 401.*credentials \(docs/ci.md\)"):
                call()
        assert len(handler.seen) <= 8, "a refusal was repeated"


def test_another_host_gets_no_credentials(home: Path) -> None:
    with registry("basic") as (host, _), registry("basic") as (other, elsewhere):
        log_in(home, host)
        store = open_store(f"oci://{host}/team/bundles")
        sealed(home / "a.fdy")
        store.put(KEY, home / "a.fdy")
        store._client.do_request(f"http://{host}/v2/")
        with pytest.raises(PermissionError):
            store._client.do_request(f"http://{other}/v2/")
        assert elsewhere.seen == [("GET", "")]
