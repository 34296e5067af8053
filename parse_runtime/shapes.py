"""Static sizes of passes; without torch, so that a capture's options and key need none."""

from __future__ import annotations

from dataclasses import dataclass

from parse_runtime.layout import cache_rows

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Static sizes of one model's passes."""

    max_len: int
    slots: int = 1
    prefill: tuple[int, ...] = ()
    verify: tuple[tuple[int, int], ...] = ()
    """(rows, cuts) of each verify pass."""

    @property
    def rows(self) -> int:
        return cache_rows(self.max_len, max((length for length, _ in self.verify), default=0))
