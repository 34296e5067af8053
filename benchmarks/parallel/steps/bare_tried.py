"""Bare processes, one a GPU, started together, by what the environment tells the driver.

Arguments: devices, tries. Prints milliseconds until all have ended: medians, alone and together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.start.cold import STEPS

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "1 connection": {"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
    "2 connections": {"CUDA_DEVICE_MAX_CONNECTIONS": "2"},
    "quarter queues": {"CUDA_SCALE_LAUNCH_QUEUES": "0.25x"},
    "both": {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "CUDA_SCALE_LAUNCH_QUEUES": "0.25x"},
}


def spent(program: Path, gpus: list[str], setting: dict[str, str]) -> float:
    began = time.perf_counter()
    processes = []
    for gpu in gpus:  # its own first, as ranks see them
        seen = ",".join([gpu, *(one for one in gpus if one != gpu)])
        own = os.environ | setting | {"CUDA_VISIBLE_DEVICES": seen}
        processes.append(subprocess.Popen([program], env=own))
    if any(process.wait() for process in processes):
        raise SystemExit("a bare process failed")
    return (time.perf_counter() - began) * 1e3


gpus, tries = sys.argv[1].split(","), int(sys.argv[2])
found: dict[str, dict[str, list[float]]] = {name: {} for name in SETTINGS}
with tempfile.TemporaryDirectory() as folder:
    program = Path(folder, "floor")
    subprocess.run(["g++", "-O2", STEPS / "floor.cpp", "-o", program, "-ldl"], check=True)
    spent(program, gpus, {})
    for _ in range(tries):  # by turns, as other processes of the host slow some of them down
        for name, setting in SETTINGS.items():
            for who, own in (("alone", gpus[:1]), ("together", gpus)):
                found[name].setdefault(who, []).append(spent(program, own, setting))
print(
    json.dumps({
        name: {who: [round(median(all_of)), *map(round, all_of)] for who, all_of in rows.items()}
        for name, rows in found.items()
    })
)  # fmt: skip
