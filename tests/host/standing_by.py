"""A process that stands by on the host target and expects a bundle."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parse_command import COMMAND


@contextmanager
def standing_by(socket: Path, bundle: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "standby", "--host", "--socket", str(socket), "--bundle", str(bundle)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert f"standing by at {socket}: " in said, said + process.stderr.read()
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()


def busy(socket: Path, bundle: Path) -> bool:
    """Whether it runs a command."""
    done = subprocess.run(
        [*COMMAND, "serve", str(bundle), "--standby", "--port", "-1"],
        capture_output=True, text=True, timeout=60, env={"FOUNDRY_STANDBY": str(socket)},
    )  # fmt: skip
    assert done.returncode in (1, 2), done.stderr
    return "is busy with another command" in done.stderr
