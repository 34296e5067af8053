"""Weights of a GGUF file into a session on the CPU: dequantized, dequantized and kept, and kept.

Each measurement is a process of its own, the ways in turn; files are in the page cache.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results

_LOAD = """
import sys, time
from foundryrt import Session
with Session.open(sys.argv[1], load_weights=False) as session:
    began = time.perf_counter()
    session.load_weights()
    print(time.perf_counter() - began)
"""
_CAPTURE = """
import sys
from dataclasses import asdict
from foundryc import Recorder
from parse_runtime.capture.record import Settings, record
settings = Settings(model=sys.argv[1], max_len=128, prefill="32", verify="64x2")
with Recorder(target="host", workload="parse", settings=asdict(settings)) as recorder:
    record(recorder, settings)
    recorder.save(sys.argv[2])
"""


def run(
    model: Annotated[str, typer.Option(help="A .gguf file, or smollm2.")] = "smollm2",
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    output: Output = RESULTS / "dequantized.json",
) -> None:
    """Measure, and write the medians."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "model.fdy"
        say(f"capturing {model}")
        _python(_CAPTURE, model, str(bundle))
        off = {"FOUNDRY_DEQUANTIZED_GB": "0"}
        _load(bundle, off)  # the page cache
        seconds: dict[str, list[float]] = {"dequantized": [], "first": [], "kept": []}
        size = 0
        for index in range(repeats):
            say(f"{index + 1} of {repeats}")
            cache = Path(folder) / f"cache{index}"
            on = {"XDG_CACHE_HOME": str(cache), "FOUNDRY_DEQUANTIZED_GB": "64"}
            seconds["dequantized"].append(_load(bundle, off))
            seconds["first"].append(_load(bundle, on))
            seconds["kept"].append(_load(bundle, on))
            size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        medians = {name: statistics.median(found) for name, found in seconds.items()}
        result = {
            "device": cpu(), "date": today(), "model": model, "repeats": repeats,
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
            "seconds": medians,
            "spread": {name: [min(found), max(found)] for name, found in seconds.items()},
            "kept_over_dequantized": medians["kept"] / medians["dequantized"],
            "bytes": size,
        }  # fmt: skip
    write_results(output, result)


def _load(bundle: Path, environment: dict[str, str]) -> float:
    return float(_python(_LOAD, str(bundle), **environment))


def _python(code: str, *arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment},
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
