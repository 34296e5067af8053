"""How a received frame was, on the GPU: buffers and launches of the three kernels of quality.cu."""

from __future__ import annotations

import torch

from foundryc.cuda.kernels import Kernel, Loader
from otfs_pipeline.link import frame
from otfs_pipeline.receiver.kernels.launch import Tensors, launch, made
from otfs_pipeline.receiver.kernels.platforms import Platform
from otfs_pipeline.receiver.kernels.program import Launch, compiled, text
from otfs_pipeline.receiver.quality import CELL
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import Tensor, quality

_SYMBOL_BLOCKS = 64
PARAMETERS = {
    "measure_samples": ("samples", "of_cells"),
    "measure_symbols": ("symbols", "of_blocks"),
    "summarize": ("of_cells", "of_blocks", "power", "peak", "clipped", "burst", "missing", "evm"),
}
"""The buffers of each kernel, which run in this order."""


def _cells(settings: Settings) -> int:
    return -(-settings.m // CELL)


def launches(settings: Settings) -> dict[str, Launch]:
    """How each kernel is launched."""
    return {
        "measure_samples": Launch(
            settings.antennas * _cells(settings), 32 * min(settings.n, 32), 0
        ),
        "measure_symbols": Launch(_SYMBOL_BLOCKS, 256, 0),
        "summarize": Launch(settings.antennas, 32, 0),
    }


def buffers(settings: Settings) -> dict[str, Tensor]:
    """All that the kernels write: scratch, then the numbers."""
    return {
        "of_cells": Tensor((settings.antennas * _cells(settings), 5), "float32"),
        "of_blocks": Tensor((_SYMBOL_BLOCKS,), "float32"),
        **quality(settings),
    }


def source(settings: Settings) -> str:
    """What is compiled, its sizes as macros."""
    whole = {
        "ANTENNAS": settings.antennas, "M": settings.m, "N": settings.n, "Q": settings.q,
        "CELLS": _cells(settings),
        "AXIS_BITS": settings.bits_per_symbol // 2, "SYMBOLS": frame.data_symbols(settings),
        "SYMBOL_BLOCKS": _SYMBOL_BLOCKS, "QUALITY_WARPS": min(settings.n, 32),
    }  # fmt: skip
    macros = [f"#define {name} ({value})\n" for name, value in whole.items()]
    macros.append(f"#define LEVEL_SCALE ({settings.level_scale:.9e}f)\n")
    return "".join([*macros, text("common.cuh"), text("quality.cu")])


class KernelQuality:
    """As `quality.measure`, on the current CUDA device and stream."""

    def __init__(self, settings: Settings, platform: Platform, load: Loader = Kernel.load) -> None:
        """Compiles the kernels; FoundryError where the device cannot load them."""
        image = compiled(source(settings), "quality.cu", platform.architecture)
        self._buffers = buffers(settings)
        self._launches = launches(settings)
        self._numbers = quality(settings)
        self._kernels = {name: load(image, name, 0) for name in PARAMETERS}

    def __call__(
        self, samples: torch.Tensor, symbols: torch.Tensor, into: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """Samples [MN] or [antennas, MN] and symbols [D] to the outputs of `signature.quality`.

        Those of `into` are written where they are.
        """
        given = {**(into or {}), "samples": samples, "symbols": symbols}
        tensors = made(self._buffers, given, samples)
        launch(self._kernels, self._launches, PARAMETERS, tensors)
        return {name: tensors[name] for name in self._numbers}
