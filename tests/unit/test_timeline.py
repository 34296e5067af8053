"""When the steps of a process's start were done."""

from __future__ import annotations

import json
import subprocess
import sys
import time

_STEPS = """
import json
import time
from foundryrt import timeline
asked = time.perf_counter()
timeline.mark("late")
timeline.mark("early", asked - 1)
timeline.mark("early")
print(json.dumps(timeline.seconds()))
"""


def test_steps_are_counted_from_the_start_of_the_process() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _STEPS], capture_output=True, text=True)
    lasted = time.monotonic() - began
    found = json.loads(done.stdout)
    assert list(found) == ["early", "late"]  # in order of time; the first mark counts
    # Ticks of 10 ms, and another process may have been given the processor between.
    assert 0 <= found["late"] <= lasted + 0.02
    assert 1 <= found["late"] - found["early"] < 1 + lasted
