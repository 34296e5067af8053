"""What the machine is called in results."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path


def gpu(field: str = "name") -> str:
    """A property of the first GPU, as nvidia-smi names it."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def check_gpus(numbers: Iterable[int]) -> None:
    """End the benchmark at once where this process does not see the GPUs of these numbers."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None:
        names = ""
    elif names is None:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        names = ",".join(line for line in listed.stdout.splitlines() if line.startswith("GPU "))
    there = len(names.split(",")) if names else 0
    if missing := [number for number in numbers if not 0 <= number < there]:
        absent = ", ".join(map(str, missing))
        raise SystemExit(f"GPU {absent} is not here: {there} are visible; run fewer ranks")


def cpu() -> str:
    """Processor, cores, system."""
    name = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
