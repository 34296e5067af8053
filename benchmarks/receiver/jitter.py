"""The machine's own jitter: a process that only sleeps, at the pace of a waveform's slots.

    python -m benchmarks.receiver.jitter SECONDS

Prints an empty line when it begins, and one JSON object when its standard input has ended: by how
many ms it was late that wanted to wake once in so many SECONDS.
"""

from __future__ import annotations

import gc
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from otfs_pipeline.metrics import latency_percentiles


@contextmanager
def beside(period: float) -> Iterator[dict[str, Any]]:
    """Measure while the block runs; what is yielded is filled at its end."""
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", __spec__.name, str(period)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()  # type: ignore[union-attr]
        yield found
    finally:
        found.update(json.loads(process.communicate()[0]))


def main(period: float) -> None:
    gc.disable()
    print(flush=True)
    found, due = [], time.perf_counter()
    while not (found and select.select([sys.stdin], [], [], 0)[0]):
        # One that is late does not hurry after the slots that it missed.
        due = max(due + period, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        found.append(1e3 * (time.perf_counter() - due))
    print(json.dumps({"slots": len(found)} | latency_percentiles(found)))


if __name__ == "__main__":
    main(float(sys.argv[1]))
