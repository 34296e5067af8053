"""Models of several ranks by the commands: one process for each rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import COMMAND, capture
from parse_models import save

from parse_runtime.capture.record import Settings

FOUNDRYC = [sys.executable, "-c", "from foundryc.cli import main; main()"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`1.fdy` and `2.fdy`, of one model, with a draft model that drafts tokens, too."""
    folder = tmp_path_factory.mktemp("commands")
    save(folder / "target", "llama", num_attention_heads=8, num_key_value_heads=2)
    save(folder / "draft", "llama", num_hidden_layers=1)
    (folder / "draft" / "model.safetensors").rename(folder / "draft" / "draft.safetensors")
    for tp in (1, 2):
        settings = Settings(
            model=str(folder / "target"), draft=str(folder / "draft"), tp=tp, max_len=256, slots=4,
            decode="4", prefill="64", verify="96x4", judge_prompt="ok?", yes="y", no="n", stride=4,
            speculate="draft", eagle_depth=2,
        )  # fmt: skip
        capture(settings, folder / f"{tp}.fdy")
    return folder


def command(*words: object) -> dict[str, Any]:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_two_ranks_answer_as_one(folder: Path) -> None:
    asked = (
        "--prompt",
        "Why is the sky blue?",
        "--max-new-tokens",
        24,
        "--threshold",
        0.4,
        "--json",
    )
    alone = command(*COMMAND, "run", folder / "1.fdy", *asked)
    both = command(*COMMAND, "run", folder / "2.fdy", "--tp", 2, *asked)
    counts = ("text", "tokens", "rounds", "drafted", "accepted", "advances", "finish_reason")
    assert {name: both[name] for name in counts} == {name: alone[name] for name in counts}
    assert both["tokens"] == 24 and both["drafted"]


def test_calibration_asks_all_ranks(folder: Path) -> None:
    """Alone, one would fit verdicts to its share. Of this pair's drafts none is right."""

    def calibrated(bundle: str, *words: str) -> str:
        asked = (*FOUNDRYC, "calibrate", str(folder / bundle), *words)
        sizes = ("--questions", "10", "--max-new-tokens", "16")
        done = subprocess.run([*asked, *sizes], capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        return done.stderr

    assert "captured for 2 ranks: say --tp 2" in calibrated("2.fdy")
    assert "of 10 drafts 0 are right" in calibrated("2.fdy", "--tp", "2")
    assert "captured for 1 rank: leave it out" in calibrated("1.fdy", "--tp", "2")
