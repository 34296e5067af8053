"""The server of a soak: a process that is started again at its port, watched, and switched."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_STARTS, _ENDS = 120.0, 60.0
"""Seconds."""


class Soaked:
    """Call `start` first, and `kill` at the end."""

    def __init__(self, bundle: Path, folder: Path, port: int, options: list[str]) -> None:
        """Its log and its token are in `folder`."""
        self.port = port
        self.log = folder / "server.log"
        self.stops = 0
        """How often it was told to stop, or was started after it: odd while nobody listens."""
        self._command = [sys.executable, "-c", "from foundryrt.start import main; main()"]
        self._serve = ["serve", str(bundle), "--port", str(port), *options]
        self._environment = os.environ | {"XDG_RUNTIME_DIR": str(folder)}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """A process, once /health says that all is well."""
        begun = time.monotonic()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, *self._serve, env=self._environment, stderr=log
            )
        while not await asyncio.to_thread(self._healthy):
            if self._process.returncode is not None or time.monotonic() - begun > _STARTS:
                raise SystemExit(f"the server does not begin: {self.log.read_text()[-3000:]}")
            await asyncio.sleep(0.1)
        self.stops += self.stops % 2

    async def stop(self) -> None:
        """By SIGTERM; SystemExit where that does not end it well."""
        assert self._process is not None
        self.stops += 1
        self._process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self._process.wait(), _ENDS)
        if code:
            raise SystemExit(f"the server ended with {code}: {self.log.read_text()[-3000:]}")

    async def switch(self, bundle: Path) -> dict[str, Any]:
        """What `foundryrt switch` reports."""
        done = await asyncio.create_subprocess_exec(
            *self._command, "switch", str(bundle), "--json",
            "--url", f"http://127.0.0.1:{self.port}", env=self._environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, error = await done.communicate()
        if done.returncode:
            raise SystemExit(f"the switch failed: {error.decode()}")
        return dict(json.loads(said))

    def usage(self) -> dict[str, float]:
        """Resident megabytes, open files, connections' included, and threads of the process."""
        assert self._process is not None
        proc = Path(f"/proc/{self._process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return {
            "process": self.stops // 2,
            "rss_mb": round(int(status["VmRSS"].split()[0]) / 1e3, 1),
            "files": len(list((proc / "fd").iterdir())),
            "threads": int(status["Threads"]),
        }

    async def idle(self) -> None:
        """Returns once no answer runs or waits."""
        while (health := await asyncio.to_thread(self.health))["running"] or health["waiting"]:
            await asyncio.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def health(self) -> dict[str, Any]:
        """What /health says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=60) as answer:
            return dict(json.load(answer))

    def _healthy(self) -> bool:
        try:
            return bool(self.health())
        except (urllib.error.URLError, ConnectionError):
            return False
