"""A server's token, its file, and what `foundryrt switch` refuses before it asks a server."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from foundryrt.admin import VARIABLE, find_token, make_token
from foundryrt.cuda_errors import explain
from foundryrt.errors import FoundryError, UsageError
from foundryrt.switch import switch

PORT = 1


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token of a server at PORT is."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / f"foundryrt-serve-{PORT}.token"


def test_a_token_is_found_until_its_server_ends(file: Path) -> None:
    token = make_token(PORT)
    assert find_token(PORT) == token.text and file.stat().st_mode & 0o777 == 0o600
    later = make_token(PORT)
    token.close()
    assert find_token(PORT) == later.text != token.text
    later.close()
    assert not file.exists()


def test_links_are_not_followed(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("what somebody else is to read")
    file.symlink_to(other)
    with pytest.raises(FoundryError, match="there is no token"):
        find_token(PORT)
    assert make_token(PORT).text == find_token(PORT)
    assert other.read_text() == "what somebody else is to read" and not file.is_symlink()


@pytest.mark.parametrize("data", [None, b"", b"\xff" * 20, "ü".encode() * 20, b"two\nlines" * 9])
def test_what_is_no_token_is_not_sent(file: Path, data: bytes | None) -> None:
    if data is None:
        os.mkfifo(file)  # nobody writes into it
    else:
        file.write_bytes(data)
    with pytest.raises(FoundryError, match="there is no token of a server at port 1"):
        find_token(PORT)


def test_a_folder_that_others_may_write_into_holds_no_token(file: Path) -> None:
    file.parent.chmod(0o777)
    with pytest.raises(FoundryError, match="not this user's alone"):
        make_token(PORT)
    assert not file.exists()


@pytest.mark.parametrize("url", ["http://[::1", "http://h:70000", "ftp://h:1", "h:1", "http://h/x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="write http://HOST:PORT"):
        switch("other.fdy", url)


def test_a_server_with_a_token_that_cannot_be_one_does_not_begin() -> None:
    pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.parse_service", "0"], capture_output=True, text=True,
        env=os.environ | {VARIABLE: "short"}, timeout=60,
    )  # fmt: skip
    assert ended.returncode and "at least 16 printable ASCII characters" in ended.stderr
    assert "listening" not in ended.stderr


def test_where_memory_or_addresses_do_not_suffice_it_is_said_what_would_do() -> None:
    pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")
    from parse_runtime.serve.successor import Asked
    from parse_runtime.serve.switching import _refusal

    for need in (
        "the bundle needs 9 bytes of device memory, 1 are free",
        explain(2, "cuMemCreate"),
        "the addresses 0x600000000000 to 0x600002000000 are taken in this process",
    ):
        error = FoundryError(f"rank 1 (GPU 1) failed: {need}")
        assert "; --stop-first closes" in str(_refusal(Asked("x.fdy"), error, None))
        assert "--stop-first" not in str(_refusal(Asked("x.fdy", stop_first=True), error, None))
    assert "--stop-first" not in str(_refusal(Asked("x.fdy"), FoundryError("no such file"), None))


def test_a_switch_that_fails_when_nobody_listens_is_not_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the server stops, and has told its client so already."""
    pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")
    from parse_runtime.serve import Serving
    from parse_runtime.serve.successor import Asked
    from parse_runtime.serve.switching import Switching
    from tests.unit.parse_fakes import mixing
    from tests.unit.parse_service import Device, service

    going, logged = threading.Event(), list[object]()

    def refused(switching: Switching, asked: Asked) -> None:
        going.wait(20)
        raise FoundryError("too late")

    monkeypatch.setattr(Switching, "_switch", refused)
    made = service(Device(mixing(1)))

    async def left() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: logged.append(what))
        switching = Switching(made, Serving(), "")
        asked = asyncio.create_task(switching._aside(Asked("other.fdy")))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        going.set()
        assert await asyncio.to_thread(switching.join, 20)
        await asyncio.sleep(0.01)
        gc.collect()

    try:
        asyncio.run(left())
    finally:
        made.engine.close()
    assert not logged
