"""A server in the process that stands by on this node."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress

from foundryrt.standby import client, wire

_LISTENING = re.compile(r"listening on (http://\S+)/v1")
_STARTS = 300
"""Seconds until a server listens, at most."""
_LAST_WORDS = 10
"""Seconds beyond the grace, for a server to end."""


class Server:
    """`foundryrt serve` in another process, on a free port; what it says goes on to stderr.

    It ends with this process. OSError where nobody stands by at `path`.
    """

    def __init__(self, path: str, arguments: list[str], grace: int) -> None:
        self._grace = grace
        self._connection = socket.socket(socket.AF_UNIX)
        reading, writing = os.pipe()
        words = ["serve", *arguments, "--port", "0", "--grace", str(grace)]
        try:
            self._connection.connect(path)
            with open(os.devnull) as nothing:
                files = (nothing.fileno(), writing, writing)
                wire.send(self._connection, *client.message(words), files=files)
        except OSError:
            os.close(reading)
            self._connection.close()
            raise
        finally:
            os.close(writing)
        self._listening: Future[str] = Future()
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()

    @property
    def address(self) -> str:
        """Its URL, once it listens; RuntimeError where it ends before."""
        try:
            return self._listening.result(_STARTS)
        except BaseException:
            self._connection.close()  # the command's client is gone: it ends, too
            raise

    @property
    def ended(self) -> bool:
        """Nobody answers any more."""
        return not self._reader.is_alive()

    def end(self) -> None:
        """End it when its requests are done, or after the grace."""
        with suppress(OSError):  # it has ended
            wire.send(self._connection, "signal", str(int(signal.SIGTERM)))
        self._reader.join(self._grace + _LAST_WORDS)

    def _read(self, output: int) -> None:
        last: deque[str] = deque(maxlen=5)
        with open(output, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                sys.stderr.write(line)
                last.append(line)
                if (found := _LISTENING.search(line)) and not self._listening.done():
                    self._listening.set_result(found[1])
        with suppress(OSError, ValueError):
            if (answer := wire.receive(self._connection)[0]) and answer[0] == "refused":
                last.append(answer[1])
        if not self._listening.done():
            self._listening.set_exception(RuntimeError("".join(last) or "it has ended"))
