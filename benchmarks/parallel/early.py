"""Variants of weights read before a kernel waits: step times. Arguments: devices, variants."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.parallel.run import STEPS, process

gpus = sys.argv[1].split(",")
variants = [v.split(":") for v in sys.argv[2].split(",")]
found = {}
folder = Path(tempfile.mkdtemp())
for early, ahead in variants:
    started = []
    for world, gpu in ((1, gpus[0]), (len(gpus), gpus[-1])):
        path = folder / f"{world}.{early}.{ahead}.fdy"
        command = [
            "env",
            f"CUDA_VISIBLE_DEVICES={gpu}",
            f"EARLY={early}",
            f"AHEAD={ahead}",
            sys.executable,
            STEPS / "decode_capture.py",
            sys.argv[3],
            str(world),
            path,
            "",
        ]
        started.append((world, path, subprocess.Popen(list(map(str, command)), stdout=sys.stderr)))
    for world, path, one in started:
        if one.wait():
            found[f"{world} {early}:{ahead}"] = "failed"
            continue
        own = sys.argv[1] if world > 1 else gpus[0]
        try:
            said, _ = process(sys.executable, STEPS / "decode_time.py", path, own)
            found[f"{world} {early}:{ahead}"] = {k: said[k] for k in ("step_ms", "first_launch_ms")}
        except SystemExit as error:
            found[f"{world} {early}:{ahead}"] = str(error)[-1500:]
        path.unlink()
        print(f"{world} {early}:{ahead}", found[f"{world} {early}:{ahead}"], flush=True)
print(json.dumps(found))
