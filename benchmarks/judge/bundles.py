"""The bundles of a pair that are compared, each captured when it is its turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arith import bundles as arith
from foundryrt.session import Session
from parse_runtime.engine.judge import PROMPT
from parse_runtime.graphs.loading import Loaded, load
from parse_runtime.weights.source import open_model


@dataclass(frozen=True)
class Pair:
    """Two models, perhaps a head, and the settings of every bundle of them."""

    model: str
    draft: str
    eagle: str
    settings: Mapping[str, object]
    same_tokens: bool = True
    """Whether the draft model can draft single tokens for the target."""

    def has(self, variant: str) -> bool:
        """Whether there is such a bundle of the pair."""
        return bool(self.eagle) if variant == "eagle3" else self.same_tokens or variant in (
            "plain", "no-evidence", "draft",
        )  # fmt: skip

    def variant(self, name: str) -> dict[str, object]:
        """The settings of one of `variants`."""
        own: dict[str, dict[str, object]] = {
            "plain": {},
            "no-evidence": {"evidence": 0},
            "speculate": {**arith.SPECULATE},
            "fly": {**arith.FLY},
            "eagle3": {"eagle": self.eagle, "eagle-depth": arith.SPECULATE["eagle-depth"]},
            "draft": {"model": self.draft},
        }
        base: dict[str, object] = {"model": self.model, "draft": self.draft}
        if name == "draft":
            base = {}
        return {**self.settings, **base, **own[name]}


def real(model: str, draft: str, eagle: str, dtype: str, length: int) -> Pair:
    """A pair that was not trained for it, for answers of `length` tokens."""
    target, other = open_model(model), open_model(draft)
    suffix = len(target.text.tokenizer.encode(target.text.chat.judge_suffix("", PROMPT)))
    same = target.text.tokenizer.same_tokens(other.text.tokenizer)
    stride = 16
    cuts = -(-length // stride)
    settings = {
        "dtype": dtype, "max-len": length + 160, "prefill": "16,64,160", "stride": stride,
        "verify": f"{40 + 2 * suffix}x2,{length + 8 + cuts * suffix}x{cuts}",
    }  # fmt: skip
    return Pair(model, draft, eagle, settings, same)


@contextmanager
def opened(pair: Pair, variant: str, folder: Path, target: str, slots: int) -> Iterator[Loaded]:
    """A bundle, open by itself: two of a real pair would not fit the memory of a small machine."""
    path = folder / f"{variant}.fdy"
    if not path.exists():
        command = [sys.executable, "-c", "from foundryc.cli import main; main()", "capture"]
        command += ["--workload", "parse", f"--target={target}", f"--slots={slots}"]
        command += [f"--{name}={value}" for name, value in pair.variant(variant).items()]
        subprocess.run([*command, "-o", str(path)], check=True, stdout=subprocess.DEVNULL)
    with Session.open(path) as session:
        session.wait()
        yield load(session)
