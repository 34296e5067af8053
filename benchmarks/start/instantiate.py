"""What instantiating graphs costs, by ways to do it: short runs of instantiate.cpp.

Each run is a process of its own, because the driver keeps the memory that executable graphs took.
The default and two threads are run twice: how far those differ says how much a difference means.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, today, write_results

HERE = Path(__file__).parent
LIMIT, ONE = 60, 10  # seconds for everything, and for one run
DEFAULT = {"graphs": 35, "nodes": 1918, "functions": 100}
WAYS: list[dict[str, int | str]] = [
    {},
    {"threads": 2},
    {"threads": 3},
    {"heap": 256},
    {"heap": 512},
    {"pad": 64},
    {"threads": 2, "heap": 256},
    {"threads": 3, "heap": 256},
    {},
    {"threads": 2, "upload": 0},
    {"heap": 256, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    {"binaries": 30},
    {"binaries": 30, "resolvers": 2},
    {"binaries": 30, "resolvers": 4},
    {"threads": 2, "CUDA_MODULE_LOADING": "EAGER"},
    {"threads": 2},
]


def program(folder: Path) -> Path:
    """instantiate.cpp, compiled with CUDA's headers from their wheels or a toolkit."""
    found = [Path(path) / "nvidia/cu13/include" for path in sys.path if path]
    include = next((p for p in found if (p / "cuda.h").exists()), Path("/usr/local/cuda/include"))
    built = folder / "instantiate"
    subprocess.run(
        ["g++", "-O2", "-std=c++17", f"-I{include}", HERE / "instantiate.cpp", "-o", built, "-ldl",
         "-pthread"], check=True,
    )  # fmt: skip
    return built


def kernels(folder: Path) -> Path:
    """Empty kernels k0, k1, ... whose one argument has 128 bytes, for the GPU that is here."""
    from foundryc.cuda.kernels import compile_source

    names = [f'extern "C" __global__ void k{i}(A) {{}}\n' for i in range(DEFAULT["functions"])]
    text = "struct A { long words[16]; };\n" + "".join(names)
    capability = gpu("compute_cap").replace(".", "")
    binary = folder / "kernels.cubin"
    binary.write_bytes(compile_source(text, "kernels.cu", f"sm_{capability}"))
    return binary


def run(
    binary: Annotated[
        Path | None, Option(help="Kernel binary with k0, k1, ..., instead of compiled ones.")
    ] = None,
    output: Output = RESULTS / "instantiate.json",
) -> None:
    """Measure ways to build, instantiate and upload graphs of many nodes."""
    end = time.monotonic() + LIMIT
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = program(folder)
        cubin = binary or kernels(folder)
        for way in WAYS:
            plan = DEFAULT | way
            variables = {key: str(plan.pop(key)) for key in list(plan) if key.isupper()}
            row: dict[str, object] = {"way": way}
            rows.append(row)
            if time.monotonic() > end - ONE:
                row["error"] = "no time left"
                continue
            try:
                done = subprocess.run(
                    [built, cubin, *(f"{key}={value}" for key, value in plan.items())],
                    capture_output=True, text=True, timeout=ONE, env=os.environ | variables,
                )  # fmt: skip
                row |= json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr}
            except subprocess.TimeoutExpired:
                row["error"] = f"more than {ONE} s"
            print(row, file=sys.stderr)
    report = {
        "date": today(),
        "device": gpu(),
        "driver": gpu("driver_version"),
        "rows": rows,
    }
    print(json.dumps(report, indent=1))
    write_results(output, report)
