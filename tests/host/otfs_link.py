"""The small link of the host tests, and the bundle of its receiver."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from foundryc.recorder import Recorder
from otfs_pipeline import capture

LINK = capture.Settings(grid="64x32")


def save_bundle(path: Path, link: capture.Settings = LINK) -> Path:
    with Recorder(target="host", workload="otfs", settings=asdict(link)) as recorder:
        capture.record(recorder, link)
        recorder.save(path)
    return path
