"""The clock by which the system dates files: it goes on in steps of some milliseconds."""

from __future__ import annotations

from pathlib import Path


def wait_for_a_step(file: Path) -> None:
    """Until a change of `file` gets a later time than its last one has."""
    probe = file.with_name("probe")
    before = file.stat().st_ctime_ns
    while True:
        probe.touch()
        if probe.stat().st_ctime_ns > before:
            return
