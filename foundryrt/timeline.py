"""When the steps of this process's start were done."""

from __future__ import annotations

import os
import time

_steps: dict[str, float] = {}


def mark(step: str, at: float | None = None) -> None:
    """A step is done, now or `at` (time.perf_counter, seconds); only its first time counts."""
    _steps.setdefault(step, time.perf_counter() if at is None else at)


def steps() -> dict[str, float]:
    """Steps and when each was done (time.perf_counter, seconds; alike for all processes)."""
    return dict(_steps)


def seconds() -> dict[str, float]:
    """Steps in the order in which they were done, in seconds since the process was started."""
    began = time.perf_counter() - _age()
    return {step: at - began for step, at in sorted(_steps.items(), key=lambda one: one[1])}


def _age() -> float:
    """Seconds since this process was started, which the system counts in ticks of 10 ms."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        # Behind the program's name, which may hold spaces and brackets: proc_pid_stat(5).
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
