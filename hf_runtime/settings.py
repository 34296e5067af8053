"""Settings of `foundryc capture --workload hf`."""

from __future__ import annotations

from dataclasses import dataclass

from foundryrt.errors import UsageError
from foundryrt.options import option

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """Which model, and the sizes of its passes."""

    model: str = option(..., "folder of a model, or org/name in the local hub cache")
    max_len: int = option(512, "tokens of prompt and answer")
    prefill: str = option("8,32,128", "numbers of tokens that are read at once; others are split")
    dtype: str = option("auto", "of the weights: auto (as stored), float32, bfloat16 or float16")

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r}: one of {', '.join(DTYPES)}")
        if self.max_len < 2:
            raise UsageError(f"max-len {self.max_len}: at least 2 is needed")
        self.sizes()

    def sizes(self) -> list[int]:
        """Numbers of tokens of the forward graphs, ascending; 1, that of decoding, is the first."""
        try:
            sizes = sorted({1, *(int(part) for part in self.prefill.split(",") if part)})
        except ValueError:
            sizes = [0]
        if sizes[0] < 1 or sizes[-1] > self.max_len:
            raise UsageError(
                f"prefill {self.prefill!r}: need numbers from 1 to max-len, {self.max_len}: give"
                " --prefill with others, such as 8,32, or with nothing (--prefill=)"
            )
        return sizes
