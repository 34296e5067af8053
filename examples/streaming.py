"""Frames over ZeroMQ: a sender plays a channel, a receiver started from a bundle demodulates it.

    python examples/streaming.py [--frames 10] [--target cuda]

The three steps are the commands that one would type in two terminals. Needs
foundry-graphs[capture,otfs,stream]; the receiver alone needs no torch on cuda.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--frames", default="10")
parser.add_argument("--target", choices=["host", "cuda"], default="host")
options = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    bundle = str(Path(folder, "receiver.fdy"))
    link = ["--zmq", f"ipc://{folder}/frames"]

    # 1. Once, offline: a receiver for frames of 64 delay by 32 Doppler bins.
    capture = ["--workload", "otfs", "--grid", "64x32", "--target", options.target, "-o", bundle]
    subprocess.run(["foundryc", "capture", *capture], check=True)

    # 2. The receiver, which waits for frames. A CPU is slower than the air: it takes its time.
    command = ["foundryrt", "run", bundle, *link, "--max-frames", options.frames]
    command += ["--lossless", "--json"]
    receiver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    # 3. The sender, in any process that can reach it.
    send = [sys.executable, "-m", "otfs_pipeline.send", *link, "--bundle", bundle, "--snr", "20"]
    send += ["--frames", options.frames]
    sender = subprocess.run(send)
    if sender.returncode:
        receiver.terminate()
    report = json.loads(receiver.communicate()[0])

print(json.dumps(report, indent=1))
