"""PARSE's caches with more blocks than at capture: the same answers, and more of them at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from foundryrt.bundle.reader import Bundle

sys.path.insert(0, str(Path(__file__).parent))
from processes import finish, start
from test_commands import PARSE, capture, run

MODELS = """
import sys
sys.path.insert(0, "tests/host")
from pathlib import Path
import parse_models
folder = Path(sys.argv[1])
parse_models.save(folder / "model", "qwen3")
parse_models.save_head(folder / "head", folder / "model")
"""
ROOM = "--slots", "4", "--kv-tokens", "128", "--kv-most", "2048"
BLOCKS = 128 // 16, 2048 // 16


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Captured side by side: one without drafts, one with a head's chains, one with its trees."""
    folder = tmp_path_factory.mktemp("room")
    finish(start("-c", MODELS, folder))
    head = "--eagle", folder / "head", "--eagle-depth", "2"
    ways: dict[str, tuple[object, ...]] = {
        "plain": (), "chain": head, "tree": (*head, "--eagle-width", "2"),
    }  # fmt: skip
    paths = {way: folder / f"{way}.fdy" for way in ways}
    captures = [
        capture("parse", paths[way], "--model", folder / "model", *PARSE, *ROOM, *options)
        for way, options in ways.items()
    ]
    for process in captures:
        finish(process)
    return paths


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    lines = [{"prompt": "abc " * (number % 5 + 1), "seed": number} for number in range(12)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def answers(bundle: Path, questions: Path, *options: str) -> tuple[list[str], int]:
    """Texts, and how often one gave way to another."""
    given = "--max-new-tokens", "70", "--max-rounds", "0", "--input", str(questions)
    results = run(bundle, *given, *options)["results"]
    return [result["text"] for result in results], sum(r["preempted"] for r in results)


@pytest.mark.parametrize("way", ["plain", "chain", "tree"])
def test_more_blocks_give_the_same_answers_without_giving_way(
    bundles: dict[str, Path], questions: Path, way: str
) -> None:
    path = bundles[way]
    with Bundle.open(path) as bundle:
        assert [growth.refused for growth in bundle.manifest.growing] == [""] * (
            2 if way == "plain" else 3
        )
    expected, gave_way = answers(path, questions)
    assert gave_way > 0 and len(set(expected)) > 1
    for options in (
        ("--kv-blocks", str(4 * BLOCKS[0])), ("--gpu-memory-utilization", "0.6"),
    ):  # fmt: skip
        assert answers(path, questions, *options) == (expected, 0)
