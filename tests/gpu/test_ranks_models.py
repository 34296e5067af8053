"""Models on several ranks, which share a GPU if need be: answers, servers, files."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from processes import CAPTURE, RUN, devices, finish, start

from foundryc.difference import compare
from foundryrt.bundle.reader import Bundle

MODEL = """
import sys
sys.path.insert(0, "tests/host")
from pathlib import Path
import parse_models
sizes = {"num_attention_heads": 8, "num_key_value_heads": 2}
if sys.argv[2] == "qwen3_moe":
    sizes |= {"num_experts": 8}
parse_models.save(Path(sys.argv[1]), sys.argv[2], **sizes)
"""
PARSE = (
    "--max-len", "128", "--prefill", "32,64", "--verify", "96x4", "--stride", "4",
    "--yes", "a", "--no", "b",
)  # fmt: skip


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe"])
def captures(request, tmp_path_factory):
    """Bundles of a model for one, two and four ranks, and one for two captured as the last."""
    folder = tmp_path_factory.mktemp(request.param)
    finish(start("-c", MODEL, folder / "model", request.param))
    ways = {"1": (1, "0"), "2": (2, "0"), "4": (4, "0"), "2 as rank 1": (2, "1")}
    processes = [
        start(
            "-c", CAPTURE, "capture", "--target", "cuda", "--workload", "parse",
            "--model", folder / "model", "--tp", world, *PARSE, "-o", folder / f"{way}.fdy",
            environment={"FOUNDRY_RANK": rank},
        )
        for way, (world, rank) in ways.items()
    ]  # fmt: skip
    for process in processes:
        finish(process)
    return folder


def test_a_model_answers_as_on_one_gpu(captures: Path) -> None:
    answers = set()
    for world in (1, 2, 4):
        ranks = () if world == 1 else ("--tp", world, "--devices", devices(world))
        words = ("run", captures / f"{world}.fdy", "--json", "--prompt", "Hello", *ranks)
        report = json.loads(finish(start("-c", RUN, *words, "--max-new-tokens", "24")))
        assert report["tokens"] == 24
        answers.add(report["text"])
    assert len(answers) == 1


def test_a_server_changes_its_ranks(captures: Path) -> None:
    """Up and down, beside the old ranks and after them, on GPUs that they share if need be."""
    words = "serve", captures / "2.fdy", "--port", "0", "--tp", 2, "--devices", devices(2)
    server = start("-c", RUN, *words)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert "listening on http" in line, line + server.stderr.read()
        url = line.split()[-1]
        answers = [ask(url)]
        for world, options in ((4, []), (1, ["--stop-first"]), (2, [])):
            ranks = () if world == 1 else ("--tp", world, "--devices", devices(world))
            words = (
                "switch",
                captures / f"{world}.fdy",
                *ranks,
                "--url",
                url.removesuffix("/v1"),
                "--json",
                *options,
            )
            report = json.loads(finish(start("-c", RUN, *words)))
            assert report["ranks"] == world
            answers.append(ask(url))
        server.terminate()
        _, err = server.communicate(timeout=60)
        assert server.returncode == 0, err
    finally:
        server.kill()
    assert len(set(answers)) == 1 and answers[0]


def ask(url: str) -> str:
    body = json.dumps({"prompt": "Hello", "max_tokens": 24, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url}/completions", body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["text"])


def test_a_models_file_is_the_same_from_every_rank(captures: Path) -> None:
    first, last = (captures / f"{way}.fdy" for way in ("2", "2 as rank 1"))
    with Bundle.open(first, None) as a, Bundle.open(last, None) as b:
        assert first.read_bytes() == last.read_bytes(), compare(a, b)
