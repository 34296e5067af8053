"""What the machine is called in results."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def gpu(field: str = "name") -> str:
    """A property of the first GPU, as nvidia-smi names it."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cpu() -> str:
    """Processor, cores, system."""
    name = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
