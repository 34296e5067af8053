"""How long a command of several ranks lives on once one of them is killed.

It launches graphs without end; the time is that until it and all its ranks have ended. Arguments:
bundle, ranks, and their GPUs, unless the bundle is one of the host.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.start.cold import parents

WORKLOAD = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    pass

def run(session, options, json):
    name, key = session.graphs[0]
    graph = session.graph(name, **key)
    graph.launch()
    session.synchronize()
    print("launched", flush=True)
    while True:
        graph.launch()
        session.synchronize()
"""


def main(bundle: str, ranks: int, gpus: str) -> None:
    own = ["--devices", gpus] if gpus else []
    with tempfile.TemporaryDirectory() as folder:
        workload = Path(folder) / "workload.py"
        workload.write_text(WORKLOAD)
        command = subprocess.Popen(
            [
                sys.executable, "-c", "from foundryrt.start import main; main()", "run", bundle,
                "--tp", str(ranks), *own, "--workload", str(workload),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert command.stdout is not None
        if command.stdout.readline() != "launched\n":
            raise SystemExit(f"no launch: {command.communicate()[1]}")
        others = {
            int(Path(f"/proc/{process}/comm").read_text().rpartition("-")[2]): process
            for process, of in parents()
            if of == command.pid
        }
        if sorted(others) != [*range(1, ranks)]:
            raise SystemExit(f"ranks are {sorted(others)} beside 0, of {ranks}")
        began = time.monotonic()
        os.kill(others[ranks - 1], signal.SIGKILL)
        _, said = command.communicate()
        while any(Path(f"/proc/{process}").exists() for process in others.values()):
            time.sleep(0.001)
        spent = time.monotonic() - began
    if command.returncode != 1 or f"rank {ranks - 1} " not in said:
        raise SystemExit(f"exit status {command.returncode}: {said}")
    print(json.dumps({"killed_s": spent, "said": said.strip()}))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
