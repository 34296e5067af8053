"""Both workloads by the commands: captured with torch, run in a process that never imports it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foundryrt.bundle.reader import Bundle

sys.path.insert(0, str(Path(__file__).parent))
from processes import CAPTURE, RUN, finish, start

BOTH = """
import sys
import numpy as np
from foundryrt.session import Session
with Session.open(sys.argv[1]) as a, Session.open(sys.argv[2]) as b:
    samples = np.random.default_rng(0).standard_normal((2, 1024 * 32)).astype(np.float32)
    found = []
    for session in (a, b, a):
        shape = session.tensor("samples").shape
        session.write("samples", samples.view(np.complex64).reshape(shape))
        graph = session.graph("receive")
        graph.launch()
        found.append(graph.read("llr").tobytes())
    assert found[0] == found[1] == found[2]
    print(a.tensor("samples").address, b.tensor("samples").address)
"""
MODEL = """
import sys
sys.path.insert(0, "tests/host")
from pathlib import Path
import parse_models
parse_models.save(Path(sys.argv[1]), "qwen3")
"""
PARSE = (
    "--max-len", "128", "--prefill", "32,64", "--verify", "96x4", "--stride", "4",
    "--yes", "a", "--no", "b",
)  # fmt: skip


def run(path: Path, *options: str) -> dict[str, Any]:
    """A bundle's report, from a process without torch."""
    return json.loads(finish(start("-c", RUN, "run", path, "--json", *options)))


def capture(workload: str, path: Path, *options: object) -> subprocess.Popen[str]:
    return start(
        "-c", CAPTURE, "capture", "--target", "cuda", "--workload", workload, "-o", path, *options
    )


@pytest.fixture(scope="module")
def receivers(tmp_path_factory):
    """Two captures of a receiver, proved, side by side."""
    folder = tmp_path_factory.mktemp("receivers")
    paths = folder / "a.fdy", folder / "b.fdy"
    for process in [capture("otfs", path, "--grid", "1024x32") for path in paths]:
        finish(process)
    return paths


def test_two_captures_are_the_same_bytes(receivers, bundles):
    first, second = receivers
    assert first.read_bytes() == second.read_bytes()
    assert bundles["eager"].read_bytes() == bundles["again"].read_bytes()


def test_otfs_receives(receivers):
    path = receivers[0]
    clean, noisy = (run(path, "--frames", "20", "--snr", snr) for snr in ("30", "20"))
    assert clean["frames"] == 20
    assert clean["ber"] < noisy["ber"] < 0.03


def test_bundles_of_one_base_open_together(receivers):
    first, second = map(int, finish(start("-c", BOTH, *receivers)).split())
    assert first != second


def test_a_bundle_bound_to_its_base_says_so(tmp_path):
    path = tmp_path / "bound.fdy"
    finish(capture("otfs", path, "--grid", "256x32", "--no-relocate"))
    elsewhere = start("-c", RUN, "run", path, "--base", "0x640000000000", "--frames", "2")
    with pytest.raises(AssertionError, match=r"(?s)exit status 2.*cannot be moved"):
        finish(elsewhere)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A model's bundles, captured side by side: twice eagerly, once compiled."""
    folder = tmp_path_factory.mktemp("bundles")
    finish(start("-c", MODEL, folder / "model"))
    ways: dict[str, tuple[str, ...]] = {"eager": (), "again": (), "compiled": ("--compile",)}
    paths = {way: folder / f"{way}.fdy" for way in ways}
    captures = [
        capture("parse", paths[way], "--model", folder / "model", *PARSE, *options)
        for way, options in ways.items()
    ]
    for process in captures:
        finish(process)
    return paths


def answer(path: Path) -> str:
    result = run(path, "--prompt", "Hello", "--max-new-tokens", "24")
    assert result["tokens"] == 24
    return result["text"]


def test_parse_answers_alike_eager_and_compiled(bundles):
    eager = answer(bundles["eager"])
    assert eager == answer(bundles["again"])
    assert eager == answer(bundles["compiled"])


def test_compiling_keeps_parse_kernels(bundles):
    found = []
    for way in ("eager", "compiled"):
        with Bundle.open(bundles[way]) as bundle:
            names = {function.name for function in bundle.manifest.functions}
        found.append({name for name in names if name[0] == "_" and not name.startswith("_Z")})
    assert "_stream_swiglu" in found[0]
    assert found[0] == found[1]
