"""vLLM with its decode graphs from a bundle, beside vLLM that captures them.

vLLM must be importable; every figure is of a process of its own, with vLLM's caches filled.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import gpu
from benchmarks.report import RESULTS, Output, chosen, today, write_results
from benchmarks.start.cold import STEPS

# Qwen3-0.6B's geometry; vLLM fills the weights with the same random values in each process.
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024,
    "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000, "max_position_embeddings": 40960,
    "hidden_act": "silu", "attention_bias": False, "torch_dtype": "bfloat16",
    "eos_token_id": 151645, "bos_token_id": 151643,
}  # fmt: skip
FILLING = "capturing", "filling"
"""Ways of the first two processes: in the second, too, Triton compiled for 14 to 21 s (0.25.0)."""
PARTS = "starts", "token"
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "1"}


def run(
    answers: Annotated[int, Option(help="Greedy answers of 64 tokens that are compared.")] = 64,
    repeats: Annotated[int, Option(help="Processes of each way, by turns.")] = 2,
    parts: Annotated[
        str, Option(help="Which to run; the others keep the results that are there.")
    ] = ",".join(PARTS),
    output: Output = RESULTS / "engine.json",
) -> None:
    """Start vLLM with and without a bundle, and time tokens with both in one process.

    Written after each process.
    """
    wanted = chosen(parts, PARTS, "--parts")
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in (*FILLING, "plain", "bundle")}
    found = json.loads(output.read_text()) if output.exists() else {}
    report: dict[str, Any] = found | {
        "date": today(), "device": gpu(), "driver": gpu("driver_version"),
        "vllm": version("vllm"), "model": "Qwen3-0.6B geometry, random bf16 weights",
        "answers": answers,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        bundle = folder / "decode.fdy"
        for way in (
            (*FILLING, *("plain", "bundle") * repeats) if "starts" in wanted else FILLING[:1]
        ):
            own = bundle if way in ("capturing", "bundle") else None
            runs[way].append(_process(folder, answers, own))
            if "starts" in wanted:
                report |= _summary(runs)
                report |= {"bundle_bytes": bundle.stat().st_size, "repeats": repeats}
                write_results(output, report)
        if "token" in wanted:
            report["by_turns"] = _by_turns(_process(folder, answers, bundle, "both"))
            write_results(output, report)


def _process(folder: Path, answers: int, bundle: Path | None, *more: str) -> dict[str, Any]:
    began, report = time.time(), folder / "report.json"
    own = ENVIRONMENT | {"SPAWNED": repr(began)}
    if bundle is not None:
        own["FOUNDRY_VLLM_BUNDLE"] = str(bundle)
    done = subprocess.run(
        [sys.executable, STEPS / "engine.py", folder, str(answers), report, *more],
        env=os.environ | own, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"vLLM: exit status {done.returncode}\n{done.stderr[-4000:]}")
    said = [line for line in done.stdout.splitlines() if str(bundle) in line]
    print(f"vllm: {time.time() - began:.1f} s", *said, sep="\n", file=sys.stderr)
    found: dict[str, Any] = json.loads(report.read_text())
    return found | {"said": said}


def _by_turns(one: dict[str, Any]) -> dict[str, Any]:
    """Each turn's figures, and medians of the ratios of turns: the bundle's over vLLM's own."""
    if "taken from" not in str(one.pop("said")):
        raise SystemExit("vLLM did not take its graphs from the bundle; its log says why")
    pairs = list(zip(one["plain"], one["bundle"], strict=True))

    def ratio(*keys: str) -> float:
        return statistics.median(
            reduce(getitem, keys, bundle) / reduce(getitem, keys, plain) for plain, bundle in pairs
        )

    return {
        "turns": one,
        "time_per_token_ratio": ratio("ms_per_token"),
        "step_together_ratio": ratio("ms_per_step_together"),
        "graph_ratio": {tokens: ratio("graph_ms", tokens) for tokens in pairs[0][0]["graph_ms"]},
    }


def _summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians by way, and whether all answered alike."""
    tokens = [one["tokens"] for own in runs.values() for one in own]
    found: dict[str, Any] = {
        "equal_answers": min(
            sum(a == b for a, b in zip(one, tokens[0], strict=True)) for one in tokens
        ),
        "taken_from_bundle": all("taken from" in str(one["said"]) for one in runs["bundle"]),
    }
    for way, own in runs.items():
        if own:
            found[way] = (
                {
                    key: statistics.median(one[key] for one in own)
                    for key in own[0]
                    if (key.endswith("_s") and key != "spent_s") or key.startswith("ms_")
                }
                | {
                    f"{part}_s": statistics.median(one["spent_s"][part] for one in own)
                    for part in own[0]["spent_s"]
                }
                | {
                    "graph_ms": {
                        tokens: statistics.median(one["graph_ms"][tokens] for one in own)
                        for tokens in own[0]["graph_ms"]
                    }
                }
            )
    if runs["plain"] and runs["bundle"]:
        plain, bundle = found["plain"], found["bundle"]
        found["ready_ratio"] = bundle["ready_s"] / plain["ready_s"]
        found["saved_s"] = plain["ready_s"] - bundle["ready_s"]
    return found
