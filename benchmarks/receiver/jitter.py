"""The machine's own jitter: processes that do nothing, at the pace of a waveform's slots.

    python -m benchmarks.receiver.jitter SECONDS KIND

Prints an empty line when it begins, and one JSON object when its standard input has ended. KIND
`sleeps`: by how much a process is late that sleeps until each slot of so many SECONDS, `spins`: for
how long at most, within each slot, one that never sleeps was kept from running. Both in ms.
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

KINDS = ("sleeps", "spins")


def sleeps(due: float) -> float:
    """Seconds after `due` at which a sleep until then ends."""
    time.sleep(max(0.0, due - time.perf_counter()))
    return time.perf_counter() - due


def spins(due: float) -> float:
    """The longest time that passed until `due` without this process."""
    longest, before = 0.0, time.perf_counter()
    while before < due:
        now = time.perf_counter()
        longest = max(longest, now - before)
        before = now
    return longest


@contextmanager
def beside(period: float) -> Iterator[dict[str, Any]]:
    """Measure while the block runs; what is yielded is filled at its end."""
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", __spec__.name, str(period)]
    processes = [
        subprocess.Popen([*command, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for kind in KINDS
    ]
    try:
        for process in processes:
            process.stdout.readline()
        yield found
    finally:
        for kind, process in zip(KINDS, processes, strict=True):
            found[kind] = json.loads(process.communicate()[0])


def main(period: float, kind: str) -> None:
    measure = {"sleeps": sleeps, "spins": spins}[kind]
    gc.disable()
    print(flush=True)
    found, due = [], time.perf_counter()
    while not (found and select.select([sys.stdin], [], [], 0)[0]):
        # One that is late does not hurry after the slots that it missed.
        due = max(due + period, time.perf_counter())
        found.append(1e3 * measure(due))
    print(json.dumps({"slots": len(found)} | latency_percentiles(found)))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
