"""Attention of a server's decode step, as a layer has it: rotation and cache writes in the kernel.

A slot may have 512 keys and has some 320, as in the benchmark `serve`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from parse_runtime.kernels.cuda import attend_step as kernel
from parse_runtime.kernels.cuda.unite import unite
from parse_runtime.kernels.rotate import Rotation
from parse_runtime.kernels.rows import STREAMED_ROWS

KEYS, HERE = 512, 320
TILES = [
    (128, 16, *tile, programs)
    for tile in (
        (64, 4, 3), (64, 4, 2), (64, 2, 2), (32, 2, 3), (32, 4, 3), (128, 4, 1),
    )
    for programs in (264, 528, 1056)
]  # fmt: skip
Time = Callable[[list[Callable[[], Any]]], float]
Paged = Callable[[int, int], tuple[Tensor, Tensor]]


def served(group: int, bandwidth: float, tiles: bool, paged: Paged, time: Time) -> Iterator[Any]:
    """Microseconds of the partial sums and of their union, by slots, for 8 key heads.

    The floor reads every key and value once.
    """
    heads, width = 8, 128
    for batch in (1, 16, 64, 256):
        bytes_ = 2 * 2 * batch * HERE * heads * width
        caches = [paged(batch, KEYS) for _ in range(max(2, min(12, 3 * 10**8 // bytes_)))]
        streamed = batch <= STREAMED_ROWS
        qkv = torch.randn(
            4 if streamed else 1, batch, (group + 2) * heads * width, device="cuda",
            dtype=torch.float32 if streamed else torch.bfloat16,
        )  # fmt: skip
        slots = torch.arange(batch, device="cuda")
        here = HERE + slots % 5
        norm = torch.randn(width, dtype=torch.bfloat16, device="cuda")
        frequencies = torch.rand(width // 2, device="cuda")
        rotation = Rotation(here, frequencies, here, (norm, norm), 1e-6, 0.0)
        numbers = slots, here, here, torch.ones_like(here), KEYS, 1

        def partial(
            cache: tuple[Tensor, Tensor], tile: kernel.Tiles | None = None,
            qkv: Tensor = qkv, rotation: Rotation = rotation, numbers: Any = numbers,
        ) -> Any:  # fmt: skip
            return kernel.rotated_partial(qkv, rotation, *cache, *numbers, tiles=tile)

        found: dict[str, Any] = {
            "group": group, "batch": batch, "floor_us": round(bytes_ / bandwidth, 2)
        }  # fmt: skip
        found["us"] = time([lambda c=c, f=partial: f(c) for c in caches])
        sums = partial(caches[0])
        found["unite_us"] = time([lambda s=sums: unite(s)] * 8)
        if tiles:
            found["tiles"] = {
                str(tile): time(
                    [lambda c=c, t=tile, f=partial: f(c, kernel.Tiles(*t)) for c in caches]
                )
                for tile in TILES
            }
        yield found
