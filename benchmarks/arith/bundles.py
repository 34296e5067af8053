"""The bundles that an evaluation compares: the pair, the pair with a head, the draft alone."""

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
    "prefill": "16,64",
    "verify": "32x4,64x8,96x10,128x10,192x12",
    # A vocabulary so small costs nothing: all that fits.
    "evidence": "28,56,86,118,180",
    "judge-prompt": JUDGEMENT,
    "threshold": 0.5,
    "cut-at": "sentence",
    "stride": 8,
    "max-rounds": 8,
    "resume-tokens": task.LINE,
}


def capture(
    folder: Path, weights: Path, target: str, dtype: str, slots: int, depth: int, width: int,
    wanted: Collection[str],
) -> dict[str, Path]:  # fmt: skip
    """Paths of the wanted bundles of `pair`, `eagle3` and `draft`; `target` is host or cuda."""
    pair = ["--model", str(weights / "target"), "--draft", str(weights / "draft")]
    head = ["--eagle", str(weights / "eagle3"), "--eagle-depth", str(depth)]
    head += ["--eagle-width", str(width)]
    models = {"pair": pair, "eagle3": pair + head, "draft": ["--model", str(weights / "draft")]}
    common = [f"--{name}={value}" for name, value in SETTINGS.items()]
    common += [f"--dtype={dtype}", f"--slots={slots}", f"--target={target}"]
    bundles, captures = {}, []
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(sorted(wanted)):
        bundles[name] = folder / f"{name}.fdy"
        command = [sys.executable, "-c", "from foundryc.cli import main; main()", "capture"]
        command += ["--workload", "parse", *models[name], *common, "-o", str(bundles[name])]
        if target == "cuda":
            # The evaluation opens all in one process, where their addresses must differ.
            command.append(f"--base={FIRST_BASE + index * (2 << 40):#x}")
        captures.append(subprocess.Popen(command))
    # All are waited for: none goes on writing where another one has failed.
    failed = [process for process in captures if process.wait()]
    if failed:
        raise SystemExit(f"a capture failed: {' '.join(map(str, failed[0].args))}")
    return bundles
