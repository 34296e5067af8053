"""Sizes of the model over eight GPUs and of its toy."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.parse.gain import Profile
from parse_runtime.signature.sizes import PassSizes

FP8_BYTES = 0x78
"""Bytes of FP8 numbers up to 240, of either sign: none is NaN."""


@dataclass(frozen=True)
class Model:
    """A target and a draft model, by their geometries' names, and how they are measured."""

    target: str
    draft: str
    batches: tuple[int, ...]
    """Of decoding by the target alone."""
    prompt: int
    """Tokens before the first step that is timed,"""
    steps: int
    """and how many steps are."""
    noise: int
    """Random numbers that weights are made of."""
    profile: Profile
    """Of PARSE,"""
    question: int
    """with a judge's question of so many tokens."""

    @property
    def sizes(self) -> PassSizes:
        """Of decoding by the target alone."""
        return PassSizes(
            max_len=self.prompt + 2 * self.steps, slots=max(self.batches), prefill=(self.prompt,),
            decode=self.batches,
        )  # fmt: skip


LARGE = Model(
    "qwen3-235b-a22b", "qwen3-8b", (1, 8, 64), 512, 64, 1 << 25,
    Profile(acceptances=(0.5, 0.75, 1.0), batches=(1, 8), shared=(2, 4, 8)), 32,
)  # fmt: skip
TINY = Model(
    "tiny-moe", "tiny", (1, 4), 16, 8, 1 << 14,
    Profile(16, 32, (2,), 4, (0.0, 0.75), (1, 2), 2, 2, shared=(2,), later=(16, 2)), 2,
)  # fmt: skip


def model_of(tiny: bool) -> Model:
    """The toy, or the model that is measured."""
    return TINY if tiny else LARGE
