"""A process that stands by on the host target and expects a bundle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from foundryrt.start import main; main()"]


@contextmanager
def commands_handed_over(folder: Path, bundle: Path) -> Iterator[None]:
    """Commands with --standby go to a process that has imported torch, which takes seconds."""
    socket = folder / "s.sock"
    with standing_by(socket, bundle, OMP_NUM_THREADS="1"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDRY_STANDBY", str(socket))
        yield


@contextmanager
def standing_by(socket: Path, bundle: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "standby", "--host", "--socket", str(socket), "--bundle", str(bundle)],
        stderr=subprocess.PIPE, text=True, env=os.environ | environment,
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
