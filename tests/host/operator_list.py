"""How foundryrt/host/operators.txt is made: what samples call, less what is dropped, and siblings.

    python -m tests.host.operator_list                        # prints the list
    python -m tests.host.operator_list --write                # writes it
    python -m tests.host.operator_list --record CORPUS,...    # takes names from new corpora first

A corpus is what `operator_samples.py` writes (some ten minutes, torch's own samples). Whether an
operator stays inside its tensors is for `fuzz_operators.py` to say: whoever adds a name runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

HERE = Path(__file__).parent
LIST = HERE.parents[1] / "foundryrt/host/operators.txt"
RECORDED, ADDED = HERE / "operators_recorded.txt", HERE / "operators_added.txt"

_TRUSTS = "trusts that its tensors' shapes agree"
_INDICES = "trusts the indices in a tensor"
_ONCE = "left its tensors in the first search, not in 700 changed calls of 2026-11-29"
DROPPED = {
    "_adaptive_avg_pool2d_backward": _TRUSTS,
    "_adaptive_avg_pool3d_backward": _TRUSTS,
    "_cdist_backward": _TRUSTS,
    "_embedding_bag_backward": _INDICES,
    "_embedding_bag_per_sample_weights_backward": _INDICES,
    "_pdist_backward": _TRUSTS,
    "_segment_reduce_backward": "trusts the lengths in a tensor",
    "_weight_int8pack_mm": _TRUSTS,
    "adaptive_max_pool2d_backward": _INDICES,
    "adaptive_max_pool3d_backward": _INDICES,
    "avg_pool2d_backward": _TRUSTS,
    "avg_pool3d_backward": _TRUSTS,
    "gelu_backward": _ONCE,
    "grid_sampler_2d_backward": _TRUSTS,
    "grid_sampler_3d_backward": _TRUSTS,
    "hash_tensor": _ONCE,
    "lcm": "divides by zero",
    "lcm_": "divides by zero",
    "linalg_ldl_solve": "trusts the pivots in a tensor",
    "max_pool2d_with_indices_backward": _INDICES,
    "max_pool3d_with_indices_backward": _INDICES,
    "multilabel_margin_loss_backward": _ONCE,
    "multilabel_margin_loss_forward": _ONCE,
    "nll_loss2d_backward": _INDICES,
    "reflection_pad1d_backward": _TRUSTS,
    "replication_pad1d_backward": _TRUSTS,
    "replication_pad2d_backward": _TRUSTS,
    "segment_reduce": "trusts the lengths in a tensor",
}
"""Recorded operators that a bundle may not call, all their overloads, and why.

On 2026-11-29 `fuzz_operators.py` saw SIGFPE for `lcm` and SIGSEGV for the others, where nothing
else is said.
"""


def names(path: Path) -> list[str]:
    """The lines of a list that are no comments."""
    lines = path.read_text(encoding="ascii").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def operator_of(name: str) -> str:
    """Without the overload: `add` of `add.out`."""
    return name.partition(".")[0]


def made() -> list[str]:
    """The names of the list."""
    recorded = {name for name in names(RECORDED) if operator_of(name) not in DROPPED}
    return sorted(recorded | set(names(ADDED)))


def comments(path: Path) -> str:
    """The lines of a list that are comments."""
    lines = path.read_text(encoding="ascii").splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("#"))


def write(path: Path, found: list[str]) -> None:
    """Names under the comments that are there."""
    path.write_text(comments(path) + "".join(f"{name}\n" for name in found), encoding="ascii")


def record(corpora: list[str]) -> None:
    """Replace the recorded names by those of corpora."""
    entries = [e for path in corpora for e in msgspec.msgpack.decode(Path(path).read_bytes())]
    write(RECORDED, sorted({entry[0].removeprefix("aten::") for entry in entries}))


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    match arguments:
        case ["--record", corpora]:
            record(corpora.split(","))
        case ["--write"]:
            write(LIST, made())
        case []:
            sys.stdout.write("".join(f"{name}\n" for name in made()))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
