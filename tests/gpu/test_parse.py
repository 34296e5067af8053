"""Drafting on a GPU: exact against plain decoding, and the same from a bundle without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_eager import OPTIONS
from processes import CAPTURE, finish, start

RUN = """
import json, sys
from foundryrt.session import Session
from parse_runtime.commands.run import Options, run
with Session.open(sys.argv[1]) as session:
    for options in json.loads(sys.argv[2]):
        print(json.dumps(run(session, Options(**options), True)["text"]))
assert not [m for m in ("torch", "triton", "foundryc") if m in sys.modules]
"""
WAYS: dict[str, dict[str, Any]] = {
    "draft": {"speculate": "draft", "draft": "draft"},
    "chain": {"eagle": "head"},
    "tree": {"eagle": "head", "eagle_depth": 3, "eagle_width": 4},
}


FAMILIES = ("mixture", "gemma3", "mixtral", "fp8", "fp8_rows")


def settings(folder: Path, way: dict[str, Any], **changes: Any) -> dict[str, Any]:
    paths = {k: str(folder / v) if k in ("draft", "eagle") else v for k, v in way.items()}
    return {
        "model": str(folder / "target"), "max_len": 256, "slots": 4, "decode": "1,4",
        "prefill": "64", "verify": "32x2,128x16,64x2x2", "dtype": "bfloat16", "judge_prompt": "ok?",
        "yes": "y", "no": "n",
        **paths, **changes,
    }  # fmt: skip


def printed(process: subprocess.Popen[str]) -> list[Any]:
    """The values of the lines that are JSON."""
    return [
        json.loads(line)
        for line in finish(process).splitlines()
        if line.startswith(("{", '"', "["))
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Any]]:
    """By way: settings, and what torch found. The ways run side by side."""
    folder = tmp_path_factory.mktemp("models")
    wanted = {way: settings(folder, changes) for way, changes in WAYS.items()}
    for name in FAMILIES:
        wanted[name] = settings(folder, {}, model=str(folder / name), speculate="draft")
    wanted["fp8_rows"]["fp8_activations"] = True
    wanted["plain"] = settings(folder, {})
    # A tree's keys lie in another order, so that only float32 hides the rounding.
    wanted["tree"]["dtype"] = "float32"
    eager = Path(__file__).parent / "parse_eager.py"
    finish(start(eager, folder))
    running = {way: start(eager, folder, json.dumps(values)) for way, values in wanted.items()}
    return {way: (wanted[way], printed(process)[0]) for way, process in running.items()}


@pytest.fixture(scope="module")
def bundles(models: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of some ways, captured side by side."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = {way: folder / f"{way}.fdy" for way in ("draft", "tree", *FAMILIES)}
    captures = []
    for way, path in paths.items():
        options = [f"--{k.replace('_', '-')}={v}" for k, v in models[way][0].items()]
        captures.append(start("-c", CAPTURE, "capture", "--workload", "parse", "--target", "cuda",
                              "--no-relocate", "-o", path, *options))  # fmt: skip
    for capture in captures:
        finish(capture)
    return paths


@pytest.mark.parametrize("way", [*WAYS, *FAMILIES])
def test_advances_give_the_tokens_of_decoding(models: Any, way: str) -> None:
    report = models[way][1]
    assert report["greedy"]["unlike"] == report["sampled"]["unlike"] == -1
    if way in ("chain", "tree"):
        assert report["greedy"]["tokens_per_pass"] > 1.3


@pytest.mark.parametrize("way", [*WAYS, *FAMILIES])
def test_prompts_that_share_a_pass_of_64_rows_have_the_tokens_of_their_own(
    models: Any, way: str
) -> None:
    together, alone = models[way][1]["following"]
    assert together == alone and len(together) == 6


@pytest.mark.parametrize("way", [*WAYS, *FAMILIES])
def test_a_draft_has_the_same_verdicts_whatever_shares_its_pass_of_64_rows(
    models: Any, way: str
) -> None:
    found = models[way][1]["judged"]
    first, *others = found["shared"]
    assert len(first[0]) == 2 and all(other == first for other in others)
    assert found["own"] == pytest.approx(first[0], abs=0.02)


@pytest.mark.parametrize("way", [*WAYS, *FAMILIES])
def test_a_step_and_a_prompt_have_the_bits_of_passes_of_their_own(models: Any, way: str) -> None:
    assert models[way][1]["beside"] == {"steps": True, "prompt": True}


@pytest.mark.parametrize("way", ["draft", "chain"])
def test_one_sequence_is_answered_as_by_the_target_alone(models: Any, way: str) -> None:
    # The answers without rounds: those of the target's own tokens.
    assert models[way][1]["texts"][:2] == models["plain"][1]["texts"][:2]


@pytest.mark.parametrize("way", ["draft", "tree", *FAMILIES])
def test_a_bundle_answers_without_torch(models: Any, bundles: Any, way: str) -> None:
    told = printed(start("-c", RUN, bundles[way], json.dumps(OPTIONS)))
    assert told == models[way][1]["texts"]
