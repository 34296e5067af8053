"""A tiny bundle, and `foundryrt` as users call it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict
from pathlib import Path

from parse_models import save
from standing_by import COMMAND

from foundryc.recorder import Recorder
from parse_runtime.capture.record import Settings, record

LIMIT, SLOTS = 160, 3


def capture(settings: Settings, bundle: Path) -> None:
    """As `foundryc capture` does, for the CPU."""
    with Recorder(target="host", workload="parse", settings=asdict(settings)) as recorder:
        record(recorder, settings)
        recorder.save(bundle)


def tiny_bundle(folder: Path, tp: int = 1) -> Path:
    """A random Llama with a byte tokenizer, `tiny.fdy` in the folder."""
    save(folder / "tiny", "llama")
    settings = Settings(
        model=str(folder / "tiny"), max_len=LIMIT, slots=SLOTS, prefill="16,64",
        verify="48x2,120x3", judge_prompt="ok?", yes="y", no="n", stride=4,
        tp=tp,
    )  # fmt: skip
    capture(settings, folder / "tiny.fdy")
    return folder / "tiny.fdy"


def listening(process: subprocess.Popen[str]) -> str:
    """The address that a server says it listens at; AssertionError with what it said instead."""
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "listening on http" in line, line + process.stderr.read()
    return line.split()[-1]


def serve(bundle: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """`foundryrt serve` at a free port."""
    command = [*COMMAND, "serve", str(bundle), "--port", "0", *options]
    own = os.environ | environment
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=own)


def foundryrt(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)
