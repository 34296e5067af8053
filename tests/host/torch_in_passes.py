"""Runs passes as on a GPU, without one; prints, as JSON, what torch computes in each.

Triton's kernels are not run, and their results are zeros.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import JITFunction

sys.path.insert(0, str(Path(__file__).parent))
from compiled_kernels import AsCuda, Hopper
from parse_models import eager, save, save_head

from foundryc.ranks import Ranks
from parse_runtime.capture.record import Settings

MEMORY = "empty", "new_empty", "empty_like", "empty_strided"
VIEWS = (
    "view", "_unsafe_view", "select", "slice", "unsqueeze", "squeeze", "expand", "transpose", "t",
    "permute", "split", "split_with_sizes", "unbind", "alias", "detach", "as_strided",
)  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "shared": ("qwen3", {"draft": "draft", "eagle": "head", "verify": "96x4,96x4x2"}),
    "tree": ("qwen3", {"eagle": "head", "eagle_width": 2}),
    "mixture": ("qwen3_moe", {"mixed": "4", "prefill": "64,96", "dtype": "bfloat16"}),
    "windows": (
        "gemma3",
        {
            "draft": "draft",
            "speculate": "draft",
            "fly_window": 2,
            "dtype": "bfloat16",
        },
    ),
}


class Computed(TorchDispatchMode):
    """The names of operators that compute, and whether they are told of strides; memory that is
    taken is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in MEMORY:
            found.zero_()
        elif name not in VIEWS:
            tensors = [x for x in args if isinstance(x, torch.Tensor) and x.dim()]
            flat = len({x.shape for x in tensors}) < 2 and all(x.is_contiguous() for x in tensors)
            products = name in ("mm", "bmm")
            self.names.append(name if flat or products else f"{name} of strides")
        return found


def passes(kind: str, options: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """By pass of a small model: its operators."""
    save(folder / "model", kind)
    save(folder / "draft", kind, num_hidden_layers=1)
    save_head(folder / "head", folder / "model", drafts=200)
    files = {name: str(folder / options[name]) for name in ("draft", "eagle") if name in options}
    sizes = {"prefill": "16,96", "verify": "96x4", "evidence": "30", "max_len": 64, "slots": 4}
    settings = Settings(model=str(folder / "model"), yes="a", no="b", **sizes | options | files)
    found = {}
    shared = None
    if kind == "qwen3_moe":  # two ranks, none of which is there
        slabs = torch.zeros(4 << 20, dtype=torch.uint8)
        shared = Ranks(2, torch.tensor([0, 2, 0, 0], dtype=torch.int32), slabs, 1 << 19)
    for (name, key), graph in eager(settings, (5, 9), ranks=shared)[0]._passes.items():
        with torch.no_grad(), AsCuda(), Computed() as computed:
            graph._run()
        found[f"{name} {dict(key)}"] = computed.names
    return found


def main() -> None:
    triton.runtime.driver.set_active(Hopper())
    JITFunction.run = lambda *_, **__: None
    found = {}
    for case, (kind, options) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[case] = passes(kind, options, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
