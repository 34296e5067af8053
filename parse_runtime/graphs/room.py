"""How many blocks the caches of a session have: as asked for, or as memory has room for.

A bundle that was captured with `--kv-most` has the same graphs for each number (foundryrt/grow.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import DTYPES, Manifest, Tensor
from foundryrt.console import note
from foundryrt.errors import UsageError
from foundryrt.nvml import Gpu, NoNvml, Nvml, visible
from foundryrt.options import option
from foundryrt.printable import size
from parse_runtime.signature.sizes import BLOCK, PassSizes

_PROCESS, _NODE = 1 << 30, 6 << 10
"""Bytes that a process takes beside the bundle's own memory: of its context, kernels and what
libraries keep, and of each node of its graphs."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much memory answers have."""

    kv_blocks: int = option(
        0, "blocks of 16 tokens in each cache, where captured with --kv-most; 0: as captured"
    )
    gpu_memory_utilization: float = option(
        0.0, "share of the GPU's memory for this process: caches take what is left of it, where "
        "captured with --kv-most; 0: as captured"
    )  # fmt: skip

    def check_room(self) -> None:
        """UsageError for values that mean nothing."""
        if self.kv_blocks < 0:
            raise UsageError("kv-blocks: at least 0 is needed")
        if not 0 <= self.gpu_memory_utilization <= 1:
            raise UsageError("gpu-memory-utilization: a share, 0 to 1, is needed")
        if self.kv_blocks and self.gpu_memory_utilization:
            raise UsageError("kv-blocks and gpu-memory-utilization: one of them is enough")

    def rows(self, bundle: Bundle) -> dict[str, int]:
        """Rows of the bundle's caches, for `Session.open(grow=...)`; none where nothing is asked.

        UsageError, with the reason, where they cannot have as many.
        """
        if not self.kv_blocks and not self.gpu_memory_utilization:
            return {}
        manifest = bundle.manifest
        caches, most = _caches(manifest)
        settings: Mapping[str, Any] = manifest.workload.settings
        captured = PassSizes(
            max_len=settings["max_len"], slots=settings["slots"], kv_tokens=settings["kv_tokens"]
        ).pool_blocks
        if self.kv_blocks:
            more = self.kv_blocks - captured
            if not 0 <= more <= most:
                raise UsageError(
                    f"kv-blocks {self.kv_blocks}: the caches of this bundle can have {captured} to "
                    f"{captured + most} blocks; capture with other --kv-tokens and --kv-most"
                )
        else:
            more = min(self._affordable(manifest, caches), most)
        note(
            f"caches: {captured + more} blocks of {BLOCK} tokens; captured with {captured}, and "
            f"for up to {captured + most}"
        )
        return {cache.name: cache.shape[0] + more for cache in caches}

    def _affordable(self, manifest: Manifest, caches: Sequence[Tensor]) -> int:
        """How many more blocks than at capture the GPU has memory for."""
        gpu = _gpu()
        share = int(self.gpu_memory_utilization * (gpu.load.memory_total or 0))
        free = share if gpu.memory_free is None else gpu.memory_free
        nodes = sum(manifest.templates[graph.template].nodes for graph in manifest.graphs)
        needed = manifest.requirements.memory + _PROCESS + nodes * _NODE
        if needed > share:
            raise UsageError(
                f"gpu-memory-utilization {self.gpu_memory_utilization}: {size(share)} of GPU "
                f"{gpu.index} is less than the {size(needed)} that the bundle needs with the "
                "blocks of its capture: give a larger share, or capture with smaller --kv-tokens"
            )
        if free < share:
            note(f"warning: of the {size(share)} that it may have only {size(free)} are free")
        block = sum(cache.strides[0] * DTYPES[cache.dtype] for cache in caches)
        return max(0, min(share, free) - needed) // block


def _caches(manifest: Manifest) -> tuple[list[Tensor], int]:
    """The caches, and by how many blocks all of them may have more; UsageError for none."""
    if not manifest.growing:
        may = manifest.target == "cuda" and not manifest.ranks
        raise UsageError(
            "the caches of this bundle keep the blocks of the capture: capture with "
            + ("--kv-most" if may else "larger --kv-tokens")
        )
    for growth in manifest.growing:
        if growth.refused:
            raise UsageError(
                f"the caches of this bundle keep the blocks of the capture: {growth.refused}"
            )
    caches = [manifest.tensors[growth.tensor] for growth in manifest.growing]
    pairs = zip(manifest.growing, caches, strict=True)
    return caches, min(growth.most - cache.shape[0] for growth, cache in pairs)


def _gpu() -> Gpu:
    """The one that CUDA offers first; UsageError where it does not say how much memory it has."""
    with contextlib.suppress(NoNvml), Nvml() as nvml:
        for gpu in visible(nvml.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))[:1]:
            if gpu.load.memory_total:
                return gpu
    raise UsageError(
        "gpu-memory-utilization: no GPU here says how much memory it has; give --kv-blocks"
    )
