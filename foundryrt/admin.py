"""The token by which a server knows whose orders it takes.

It is FOUNDRY_ADMIN_TOKEN, or a random one in a file that only the server's own user can read. An
address alone would tell nothing: other users, proxies and web pages reach a server's port, too.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from foundryrt.errors import FoundryError, UsageError
from foundryrt.runtime_folder import make_runtime_folder, runtime_folder

VARIABLE = "FOUNDRY_ADMIN_TOKEN"
_LEAST = 16


@dataclass(frozen=True)
class Token:
    """A server's; `close` removes its file."""

    text: str
    file: Path | None = None

    def close(self) -> None:
        """Forget it; another server at the port may have put its own into the file."""
        if self.file is not None and _read(self.file) == self.text:
            self.file.unlink(missing_ok=True)


def make_token(port: int) -> Token:
    """The token of the server at `port`; FoundryError where no file can be made for it."""
    if (chosen := _chosen()) is not None:
        return Token(chosen)
    token = Token(secrets.token_urlsafe(32), _file(port))
    assert token.file is not None
    try:
        make_runtime_folder()
        token.file.unlink(missing_ok=True)
        with open(os.open(token.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token.text)
    except OSError as error:
        raise FoundryError(
            f"{token.file}: the token of the server cannot be written ({error.strerror}); set"
            f" {VARIABLE}"
        ) from None
    return token


def find_token(port: int) -> str:
    """The token of this user's server at `port` on this machine, or the one that is set."""
    found = _chosen() or _read(_file(port))
    if not found:
        raise FoundryError(
            f"there is no token of a server at port {port} ({_file(port)}): be the user that"
            f" started it, with the same XDG_RUNTIME_DIR, or set {VARIABLE} for both"
        )
    return found


def chosen_token() -> str:
    """FOUNDRY_ADMIN_TOKEN; UsageError where it is not set."""
    if (chosen := _chosen()) is None:
        raise UsageError(f"a server on another machine needs its token: set {VARIABLE}")
    return chosen


def _chosen() -> str | None:
    text = os.environ.get(VARIABLE)
    if text is not None and (len(text) < _LEAST or not text.isascii() or not text.isprintable()):
        raise UsageError(f"{VARIABLE}: at least {_LEAST} printable ASCII characters are needed")
    return text


def _file(port: int) -> Path:
    return Path(runtime_folder()) / f"foundryrt-serve-{port}.token"


def _read(file: Path) -> str:
    try:
        # A pipe that somebody has put there is not waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(file, flags), encoding="ascii") as opened:
            mine = os.fstat(opened.fileno()).st_uid == os.getuid()
            text = opened.read(1024) if mine else ""
    except (OSError, ValueError):
        return ""
    return text if text.isprintable() else ""
