"""Programs that know of no recorder: which are captured, and run elsewhere bit for bit.

Each is captured three times and proved, as `foundryc capture` does (tests/gpu/foreign).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, today, write_results


def run(output: Output = RESULTS / "foreign.json") -> None:
    """Capture and replay all programs of tests/gpu/foreign."""
    import torch

    from tests.gpu.foreign.programs import PROGRAMS
    from tests.gpu.foreign.run import run_all, summary

    with tempfile.TemporaryDirectory() as folder:
        found = run_all(Path(folder), PROGRAMS)
    report = {"date": today(), "device": gpu(), "torch": torch.__version__, **summary(found)}
    write_results(output, report | {"each": found})
