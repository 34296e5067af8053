"""A context of 32768 tokens on the GPU, and caches with more elements than an int32 counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from long_context import CONTEXT
from parse_long import OPTIONS, QUESTION
from processes import CAPTURE, ROOT, finish, start
from test_parse import RUN, printed


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "model": str(tmp_path_factory.mktemp("long") / "model"), "max_len": CONTEXT, "slots": 2,
        "decode": "1,2", "prefill": "64,512", "verify": "32x2", "dtype": "bfloat16",
        "judge_prompt": "ok?", "yes": "y", "no": "n",
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(settings: dict[str, Any]) -> Any:
    script = Path(__file__).parent / "parse_long.py"
    return printed(start(script, Path(settings["model"]).parent, json.dumps(settings)))[0]


def test_logits_at_the_end_are_those_of_transformers(report: Any) -> None:
    assert len(report["logits"]) == 3
    assert all(error < 1e-3 for error in report["logits"].values()), report["logits"]


def test_a_bundle_answers_a_prompt_of_nearly_the_context(
    settings: dict[str, Any], report: Any
) -> None:
    assert 0.9 * CONTEXT < len(QUESTION) < CONTEXT
    path = Path(settings["model"]).parent / "long.fdy"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    finish(start("-c", CAPTURE, "capture", "--workload", "parse", "--target", "cuda",
                 "--no-relocate", "-o", path, *options))  # fmt: skip
    assert printed(start("-c", RUN, path, json.dumps(OPTIONS))) == report["texts"]


def test_kernels_find_blocks_that_an_int32_does_not_reach() -> None:
    [found] = printed(start(ROOT / "tests/host/far_blocks.py", "cuda"))
    assert len(found) == 5 and not any(found.values()), found
