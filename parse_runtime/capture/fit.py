"""Sizes of a server that nobody gave: by the model's files, the target and this machine's memory.

What is free at the moment does not count: sizes are part of a bundle's key, and another start on
the same machine must find the same bundle.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from foundryrt.bundle.schema import DTYPES
from foundryrt.console import note
from foundryrt.errors import UsageError
from foundryrt.nvml import NoNvml, Nvml, visible
from foundryrt.options import flag
from parse_runtime.capture.settings import Settings
from parse_runtime.signature.plan import ALIGNMENT
from parse_runtime.signature.sizes import BLOCK, prompts_of
from parse_runtime.weights.source import Model, open_model


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes at most where the memory allows more."""

    dtype: str
    max_len: int
    slots: int
    prefill: tuple[int, ...]
    mixed: bool
    """Whether steps go beside prompts, where no single tokens are drafted."""
    verify: str
    """Where answers are drafted whole."""
    share: float
    """Of the memory that weights and caches may have; the rest is for what passes compute."""


LIMITS = {
    "cuda": Limits(
        dtype="bfloat16",
        max_len=32768,
        slots=64,
        prefill=(128, 256, 384, 512, 1024, 2048),
        mixed=True,
        verify=f"{Settings.verify},512x4x4,768x8x4",
        share=0.85,
    ),
    "host": Limits(
        dtype="float32",
        max_len=2048,
        slots=4,
        prefill=(32, 128),
        mixed=False,
        verify=Settings.verify,
        share=0.5,
    ),
}
_SHORTEST = 256
_STEP = 1024
_FEWEST = 32
"""Sequences of the smallest step that goes beside prompts."""


def fitted(given: Mapping[str, Any], target: str) -> dict[str, Any]:
    """The settings that `given` leaves open; UsageError where the models need more memory."""
    target_model = open_model(given["model"])
    if (world := given.get("tp", 1)) > 1:
        target_model = target_model.sharded(world)
    draft = open_model(given["draft"]) if given.get("draft") else target_model
    found = choose(given, LIMITS[target], memory(target), target_model, draft)
    shown = " ".join(f"{flag(name)} {value}" for name, value in found.items())
    if shown:
        note(f"sizes for this machine: {shown}")
    return found


def choose(
    given: Mapping[str, Any], limits: Limits, available: int, target: Model, draft: Model
) -> dict[str, Any]:
    """As `fitted`, with `available` bytes: first the longest sequences, then the most of them.

    Slots share the tokens that there is room for. The number of slots and a length that is cut
    down are powers of two.
    """
    found: dict[str, Any] = {"dtype": limits.dtype}
    if not (given.get("draft") or given.get("eagle")):
        found["max_rounds"] = 0  # A model that drafts whole answers for itself gains nothing.
    elif limits.verify != Settings.verify:
        found["verify"] = limits.verify
    dtype = str(given.get("dtype", limits.dtype))
    room = int(available * limits.share) - _weights(target, draft, dtype)
    most = min(limits.max_len, target.config.max_positions, draft.config.max_positions)
    tokens = int(given.get("kv_tokens", 0))
    length = int(given.get("max_len", min(most, tokens or most)))
    sized = {**found, **given}
    while (needed := _caches(sized, length, tokens or length, target, draft, dtype)) > room:
        shorter = 1 << (length - 1).bit_length() - 1
        if "max_len" in given or shorter < _SHORTEST:
            raise UsageError(
                f"{given['model']}: its weights and {tokens or length} tokens of cache need "
                f"{(needed - room) / 2**30:.1f} GiB more than the {available / 2**30:.1f} GiB "
                "here allow; take a smaller model, or --max-len and --kv-tokens below these"
            )
        length = shorter
    held = tokens or length + (room - needed) // _token(target, draft, dtype=dtype)
    slots = int(given.get("slots", limits.slots))
    while "slots" not in given and slots > 1 and slots * min(length, _SHORTEST) > held:
        slots //= 2
    if held < slots * length:
        found["kv_tokens"] = max(held // _STEP * _STEP, length)
    found |= {"max_len": length, "slots": slots}
    # What is left is also for the graphs themselves, and for what libraries take.
    left = available * (1 - limits.share) / 2
    smallest, *larger = limits.prefill
    held = min(held, slots * length)
    rows = [min(smallest, held)]
    for count in larger:
        needed = max(_scratch(model, count, slots, dtype) for model in (target, draft))
        if count <= held and needed <= left:
            rows.append(count)
    found["prefill"] = ",".join(map(str, rows))
    apart = any(given.get(name) for name in ("eagle", "speculate", "fp8_activations", "prefill"))
    if limits.mixed and slots > 1 and not apart and given.get("run_ahead", True):
        # At least half of the largest pass is prompts, in whole tiles.
        batches = [one for one in _beside(slots) if rows[-1] - one >= max(one, ALIGNMENT)]
        if batches:
            found["mixed"] = ",".join(map(str, batches))
    return {name: value for name, value in found.items() if name not in given}


def _beside(slots: int) -> list[int]:
    """Batches of steps that go beside prompts; for each there is a pass of each prefill's rows."""
    powers = (_FEWEST << i for i in range(slots.bit_length()))
    return [*(power for power in powers if power < slots), slots]


def _weights(target: Model, draft: Model, dtype: str) -> int:
    models = [target] if draft is target else [target, draft]
    return sum(
        DTYPES.get(p.dtype or dtype, 4) * prod(p.shape) for m in models for p in m.parameters
    )


def _token(*models: Model, dtype: str) -> int:
    """Bytes of a token in the caches of all models."""
    configs = [model.config for model in models]
    return sum(2 * c.layers * c.kv_heads * c.head_dim for c in configs) * DTYPES.get(dtype, 4)


def _caches(
    given: Mapping[str, Any], length: int, tokens: int, target: Model, draft: Model, dtype: str
) -> int:
    """Bytes of both models' caches; the target's has blocks for the judge's suffixes, too."""
    settings = Settings(
        model="", max_len=length, slots=int(given.get("slots", LIMITS["cuda"].slots)),
        kv_tokens=max(tokens, length), prefill="1",
        verify=str(given.get("verify", Settings.verify)),
    )  # fmt: skip
    sizes = settings.sizes()
    return sum(
        (each.fixed_blocks + each.pool_blocks) * BLOCK * _token(model, dtype=dtype)
        for model, each in (
            (target, sizes),
            (draft, replace(sizes, verify=(), shared=(), scored=())),
        )
    )


def _scratch(model: Model, rows: int, slots: int, dtype: str) -> int:
    """Bytes that a prefill pass computes in: hidden states and a block's inside, then logits.

    All passes use the same memory by turns, so the largest counts.
    """
    c = model.config
    inside = max(3 * c.intermediate, c.experts_per_token * (3 * c.expert_intermediate + c.hidden))
    row = 4 * c.hidden + max(inside, 2 * c.qkv_rows)
    return (row * rows + 2 * c.vocab * prompts_of(rows, slots)) * DTYPES.get(dtype, 4)


def memory(target: str) -> int:
    """Bytes of the GPU that CUDA offers first, or of this machine; UsageError where none tells."""
    if target == "cuda":
        with contextlib.suppress(NoNvml), Nvml() as nvml:
            for gpu in visible(nvml.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))[:1]:
                if gpu.load.memory_total:
                    return gpu.load.memory_total
        raise UsageError("--fit: no GPU here says how much memory it has; give the sizes")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        # A container's own limit; "max" where it has none.
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total
