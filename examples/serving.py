"""OpenAI's API from a bundle: capture a pair of models, serve it, ask it.

    python examples/serving.py [--target cuda]

The models are the small pair of benchmarks/arith/weights, trained on sums: the draft writes a whole
answer, the target judges its prefixes in one pass and goes on from the longest good one. Needs
foundry-graphs[capture,parse,serve] and openai; the server alone needs no torch on cuda.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from openai import OpenAI

WEIGHTS = Path(__file__).parents[1] / "benchmarks" / "arith" / "weights"
QUESTION = "037 a+085 b*006 c-311 d+222 e*002 f-100"

parser = argparse.ArgumentParser()
parser.add_argument("--target", choices=["host", "cuda"], default="host")
options = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    bundle = str(Path(folder, "sums.fdy"))

    # 1. Once, offline.
    capture = [
        "--workload", "parse", "--model", WEIGHTS / "target", "--draft", WEIGHTS / "draft",
        "--judge-prompt", "?", "--cut-at", "sentence", "--stride", "8", "--max-len", "208",
        "--prefill", "64", "--verify", "192x12", "--target", options.target,
    ]  # fmt: skip
    subprocess.run(["foundryc", "capture", *capture, "-o", bundle], check=True)

    # 2. The server says where it listens as soon as it does.
    serve = ["foundryrt", "serve", bundle, "--port", "0"]
    server = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
    try:
        said = server.stderr.readline()
        if "listening on" not in said:
            raise SystemExit(said + server.stderr.read())

        # 3. Any client of OpenAI's.
        client = OpenAI(base_url=said.split()[-1], api_key="none")
        model = client.models.list().data[0].id
        asked = [{"role": "user", "content": QUESTION}]
        answer = client.chat.completions.create(model=model, messages=asked, max_tokens=90)
        print(f"{QUESTION}\n{answer.choices[0].message.content}")
    finally:
        server.terminate()
        server.wait()
