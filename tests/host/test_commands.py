"""The commands as a user types them first: nothing named that follows from the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from foundryc.leaks import leaks

FOUNDRYC = "from foundryc.cli import main; main()"
FOUNDRYRT = "from foundryrt.start import main; main()"
SAMPLE = Path(__file__).parents[1] / "unit" / "workload_sample.py"


def command(code: str, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *map(str, words)]
    # Where the tests run may have a GPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("FOUNDRY_CACHE", None)
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the bundle of a capture of which nothing but the grid was said."""
    folder = tmp_path_factory.mktemp("commands")
    done = command(FOUNDRYC, folder, "capture", "--grid", "64x32")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("otfs-grid64x32.fdy: 1 graphs")
    assert done.stderr.startswith("target host: ") and done.stderr.count("\n") == 1
    return folder


def test_a_name_that_nobody_gave_overwrites_nothing(folder: Path) -> None:
    bundle = folder / "otfs-grid64x32.fdy"
    before, contents = bundle.stat().st_mtime_ns, bundle.read_bytes()
    again = command(FOUNDRYC, folder, "capture", "--grid=64x32", "--json")
    assert again.returncode == 2 and again.stdout == ""
    assert "otfs-grid64x32.fdy is there already; --force replaces it" in again.stderr
    assert bundle.stat().st_mtime_ns == before
    forced = command(FOUNDRYC, folder, "capture", "--grid=64x32", "--force", "--json")
    assert json.loads(forced.stdout)["bundle"] == "otfs-grid64x32.fdy"
    assert bundle.stat().st_mtime_ns > before
    assert bundle.read_bytes() == contents


def test_a_bundle_says_nothing_of_where_it_was_made(folder: Path) -> None:
    texts = [str(folder), str(Path(__file__).parents[2]), sys.prefix]
    assert leaks(folder / "otfs-grid64x32.fdy", [], texts) == []


# One process after another would import torch each time.
ORDERS = """
import json, sys
from foundryrt.start import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["foundryrt", "run", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code
"""


def test_a_workload_s_options_come_anywhere(folder: Path) -> None:
    bundle = "otfs-grid64x32.fdy"
    orders = (
        ("--frames", "2", "--json", bundle),
        ("--json", bundle, "--frames", "2"),
        (bundle, "--frames=2", "--json"),
    )
    done = command(ORDERS, folder, json.dumps(orders))
    assert done.returncode == 0, done.stderr
    reports = re.split(r"(?<=\n\})\n", done.stdout.strip() + "\n")
    assert [json.loads(report)["frames"] for report in reports if report] == [2, 2, 2]


def test_a_workload_that_is_a_file(tmp_path: Path) -> None:
    done = command(FOUNDRYC, tmp_path, "capture", "--width", "5", "--workload", SAMPLE)
    assert done.returncode == 0, done.stderr
    bundle = "workload_sample-width5.fdy"
    run = command(FOUNDRYRT, tmp_path, "run", "--value=3", bundle, "--workload", SAMPLE, "--json")
    assert json.loads(run.stdout) == {"sum": 30.0}
    alone = command(FOUNDRYRT, tmp_path, "run", bundle)
    assert alone.returncode == 2 and "--workload FILE.py" in alone.stderr
    words = ("--workload", SAMPLE, "--cache", tmp_path / "cache", "-o", "x.fdy")
    cached = command(FOUNDRYC, tmp_path, "capture", *words)
    assert cached.returncode == 2 and "has no key" in cached.stderr


@pytest.mark.parametrize("words", [["capture"], ["key"]])
def test_nothing_at_all_shows_the_help(tmp_path: Path, words: list[str]) -> None:
    done = command(FOUNDRYC, tmp_path, *words)
    assert "Usage:" in done.stdout + done.stderr and "error:" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_an_input_replaces_nothing(folder: Path, tmp_path: Path) -> None:
    bundle = folder / "otfs-grid64x32.fdy"
    before = bundle.read_bytes()
    (tmp_path / "link").symlink_to(bundle)
    (tmp_path / "hard").hardlink_to(bundle)
    for option, path in (
        ("--bits-out", bundle), ("--llr-out", tmp_path / "link"), ("--latency-plot", "hard"),
    ):  # fmt: skip
        refused = command(FOUNDRYRT, tmp_path, "run", bundle, "--frames", 1, option, path)
        assert refused.returncode == 2 and "is read, and would be replaced" in refused.stderr
        assert option in refused.stderr and refused.stderr.count("\n") == 1
    page = command(FOUNDRYC, tmp_path, "report", bundle, "-o", tmp_path / "hard")
    assert page.returncode == 2 and "the page" in page.stderr
    model = tmp_path / "model.gguf"
    model.write_bytes(b"somebody's model")
    capture = command(FOUNDRYC, tmp_path, "capture", "--model", model, "-o", "model.gguf")
    assert capture.returncode == 2 and "the output model.gguf: is read" in capture.stderr
    assert bundle.read_bytes() == before and model.read_bytes() == b"somebody's model"
