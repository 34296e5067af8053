"""The bundles that an evaluation compares: the pair, alone and with what speculates; the draft."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from benchmarks.arith import task
from benchmarks.arith.vocabulary import JUDGEMENT

WEIGHTS = Path(__file__).parent / "weights"
MAX_NEW_TOKENS = task.ANSWER + 2
FIRST_BASE = 0x600000000000
SETTINGS: dict[str, object] = {
    "max-len": 208,
    # A vocabulary so small costs nothing: all that fits.
    "evidence": "28,56,86,118,180",
    "judge-prompt": JUDGEMENT,
    "threshold": 0.5,
    "cut-at": "sentence",
    "stride": 8,
    "max-rounds": 8,
    "resume-tokens": task.LINE,
}
PREFILL, VERIFY = "16,64", "32x4,64x8,96x10,128x10,192x12"
"""Of one prompt, of one draft: these take up to 59 rows, and up to 192 with their question."""
SPECULATE: dict[str, object] = {"speculate": "draft", "eagle-depth": 8}
"""Exact speculation by the draft model, and how many tokens it drafts ahead."""
FLY: dict[str, object] = {"speculate": "draft", "eagle-depth": 16, "fly-window": 6}
"""The published window, and a chain in which there is room for it."""


def capture(
    folder: Path, weights: Path, target: str, dtype: str, slots: int, depth: int, width: int,
    wanted: Collection[str], ranks: int = 1,
) -> dict[str, Path]:  # fmt: skip
    """Paths of the wanted bundles; `target` is host or cuda.

    `pair`, alone or with `eagle3`, whose head has a `depth` and a `width`, `speculate` or `fly`;
    `draft` is the draft model by itself.
    """
    pair = {"model": weights / "target", "draft": weights / "draft"}
    head = {"eagle": weights / "eagle3", "eagle-depth": depth, "eagle-width": width}
    models: dict[str, dict[str, object]] = {
        "pair": {**pair}, "eagle3": {**pair, **head}, "speculate": {**pair, **SPECULATE},
        "fly": {**pair, **FLY}, "draft": {"model": weights / "draft"},
    }  # fmt: skip
    several = [count for count in (2, 4, 8, 16) if count <= slots]
    common = {
        **SETTINGS, "dtype": dtype, "slots": slots, "target": target,
        "prefill": ",".join([PREFILL, *(f"{64 * count}" for count in several)]),
        "verify": ",".join([VERIFY, *(f"{192 * count}x12x{count}" for count in several)]),
    }  # fmt: skip
    bundles, captures = {}, []
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(sorted(wanted)):
        bundles[name] = folder / f"{name}.fdy"
        command = [sys.executable, "-c", "from foundryc.cli import main; main()", "capture"]
        command += ["--workload", "parse", "-o", str(bundles[name])]
        command += [f"--{key}={value}" for key, value in {**common, **models[name]}.items()]
        if ranks > 1:
            command += [f"--tp={ranks}"]
        if target == "cuda":
            # The evaluation opens all in one process, where their addresses must differ; they lie
            # where they were captured, so that nothing is to be proved of other places.
            command += [f"--base={FIRST_BASE + index * (2 << 40):#x}", "--no-relocate"]
        captures.append(subprocess.Popen(command))
    # All are waited for: none goes on writing where another one has failed.
    failed = [process for process in captures if process.wait()]
    if failed:
        raise SystemExit(f"a capture failed: {' '.join(map(str, failed[0].args))}")
    return bundles
