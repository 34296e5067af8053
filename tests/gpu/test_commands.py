"""Both workloads by the commands: captured with torch, run in a process that never imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

RUN = """
import sys
from foundryrt.start import main
try:
    main()
finally:
    assert "torch" not in sys.modules and "foundryc" not in sys.modules
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


def python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
        timeout=300, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def capture(*arguments: object) -> None:
    code = "from foundryc.cli import main; main()"
    python(code, "capture", "--target", "cuda", *arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    python(MODEL, folder)
    return folder


def answer(model, path, *options):
    capture("--workload", "parse", "--model", model, *PARSE, "-o", path, *options)
    result = json.loads(
        python(RUN, "run", path, "--prompt", "Hello", "--max-new-tokens", "24", "--json")
    )
    assert result["tokens"] == 24
    return result["text"]


def test_otfs_receives(tmp_path):
    path = tmp_path / "otfs.fdy"
    capture("--workload", "otfs", "--grid", "1024x32", "-o", path)
    clean = json.loads(python(RUN, "run", path, "--frames", "20", "--snr", "30", "--json"))
    noisy = json.loads(python(RUN, "run", path, "--frames", "20", "--snr", "20", "--json"))
    assert clean["frames"] == 20
    assert clean["ber"] < noisy["ber"] < 0.03


def test_parse_answers_alike_eager_and_compiled(model, tmp_path):
    eager = answer(model, tmp_path / "eager.fdy")
    assert eager == answer(model, tmp_path / "again.fdy")
    assert eager == answer(model, tmp_path / "compiled.fdy", "--compile")


def test_compiled_kernels_are_tritons(tmp_path, model):
    path = tmp_path / "compiled.fdy"
    capture("--workload", "parse", "--model", model, *PARSE, "-o", path, "--compile")
    from foundryrt.bundle.reader import Bundle

    with Bundle.open(path) as bundle:
        names = [function.name for function in bundle.manifest.functions]
    assert any(name.startswith("triton_") for name in names)
