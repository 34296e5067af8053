"""Cold start of a decoder's graphs: torch against a bundle; every figure from fresh processes.

Writes one JSON: a run for each of eager and --compile. The weights lie in a file in the page cache.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent


def process(*command: object) -> tuple[dict[str, Any], float]:
    """The JSON on a process's last line, and its whole time in milliseconds."""
    # The site's folder by name, for processes without `site` (see `step`).
    path = f"{os.environ.get('PYTHONPATH', '')}:{ROOT}:{sysconfig.get_path('purelib')}"
    start = time.time()
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd="/",
        env=os.environ | {"SPAWNED": repr(start), "PYTHONPATH": path},
    )  # fmt: skip
    spent = (time.time() - start) * 1e3
    if done.returncode:
        said = f"{done.stdout[-1000:]}{done.stderr[-4000:]}"
        raise SystemExit(f"{command}: exit status {done.returncode}\n{said}")
    lines = done.stdout.strip().splitlines()
    return (json.loads(lines[-1]) if lines else {}), spent


def step(script: str, *arguments: object) -> dict[str, Any]:
    """A script of benchmarks/cold in a process of its own."""
    # What other packages' .pth files import at start is none of ours.
    options = ["-S"] if script == "replay.py" else []
    report, spent = process(sys.executable, *options, HERE / "cold" / script, *arguments)
    print(f"{script} {' '.join(map(str, arguments[:2]))}: {spent / 1e3:.1f} s", file=sys.stderr)
    return report


def floor(folder: Path, repeats: int) -> dict[str, float]:
    """A bare process: cuInit, context, one launch; and the speed of a pinned copy."""
    program = folder / "floor"
    subprocess.run(["g++", "-O2", HERE / "cold" / "floor.cpp", "-o", program, "-ldl"], check=True)
    times = [process(program)[1] for _ in range(repeats + 1)][1:]
    return {"floor_ms": statistics.median(times), **process(program, "copy")[0]}


def measure(model: str, mode: str, folder: Path, repeats: int, torchs: int) -> dict[str, Any]:
    """All figures of one mode but the replays'."""
    captured = folder / f"{model}.{mode}.captured.json"
    if not captured.exists():
        step("capture.py", model, mode, folder)
    result = json.loads(captured.read_text())
    verified = step("replay.py", model, mode, folder, "verify")
    torch_side = [step("torch_side.py", model, mode) for _ in range(torchs)]
    runs = [step("replay.py", model, mode, folder) for _ in range(repeats)]

    def median(*keys: str) -> float:
        values = []
        for run in runs:
            for key in keys:
                run = run[key]
            values.append(run)
        return statistics.median(values)

    fixed = ("nodes", "graphs", "templates", "kernels", "bundle_bytes", "kernel_bytes")
    result |= {key: verified[key] for key in fixed}
    all_ready = median("marks_ms", "all_ready")
    context = median("timeline_ms", "context")
    result |= {
        # The capture has filled Inductor's cache, as an earlier start would have.
        "torch_total_ms": statistics.median(one["torch_total_ms"] for one in torch_side),
        "first_launch_ms": median("marks_ms", "first_launch"),
        "all_ready_ms": all_ready,
        "context_ms": context,
        # Everything between the context and the last graph, reading and cubins included.
        "us_per_node": (all_ready - context) * 1e3 / verified["nodes"],
        "peak_rss_mb": median("peak_rss_mb"),
        "weights_gbps": median("weights_gbps"),
        "weights_unchecked_gbps": median("weights_unchecked_gbps"),
        "identical": verified["identical"],
        "different": verified["different"],
        "torch_imported": any(run["torch_imported"] for run in [verified, *runs]),
        "example": runs[len(runs) // 2],
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen3-0.6b", choices=("qwen3-0.6b", "qwen3-14b"))
    parser.add_argument("--modes", default="eager,compile")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torch-repeats", type=int, default=2)
    parser.add_argument("--captured", type=Path, help="folder that cold/capture.py has filled")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    # Memory, not a disk: the weights are to be in the page cache.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = options.captured or Path(tempfile.mkdtemp(dir=memory))
    sys.path.insert(0, str(ROOT))
    try:
        import torch

        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        ).stdout.strip().split(", ")  # fmt: skip
        report: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "model": options.model,
            "device": driver[0],
            "driver": driver[1],
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            **floor(folder, options.repeats),
        }
        for mode in options.modes.split(","):
            run = measure(options.model, mode, folder, options.repeats, options.torch_repeats)
            run["first_launch_ratio"] = run["first_launch_ms"] / report["floor_ms"]
            run["all_ready_ratio"] = run["all_ready_ms"] / run["torch_total_ms"]
            run["weights_ratio"] = run["weights_gbps"] / report["pinned_copy_gbps"]
            report[mode] = run
            options.output.write_text(json.dumps(report, indent=1) + "\n")
            run |= step("compare.py", options.model, mode, folder)
            options.output.write_text(json.dumps(report, indent=1) + "\n")
            short = {k: v for k, v in run.items() if not isinstance(v, (dict, list))}
            print(json.dumps(short, indent=1))
        print({k: v for k, v in report.items() if not isinstance(v, dict)})
    finally:
        if not options.captured:
            shutil.rmtree(folder)


main()
