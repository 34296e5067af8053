"""Which operators a host bundle may call.

An operator's name is the one thing in a host bundle that makes code run, and most of ATen trusts
its arguments. `operators.txt` says how the list was made; `NATIVE` are this package's own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from foundryrt.bundle.schema import Manifest
from foundryrt.errors import FoundryError


class OperatorNotAdmitted(FoundryError):
    """A host bundle calls an operator that is not on the list."""


NATIVE = frozenset(
    f"foundry::{name}" for name in ("all_gather", "zak_estimate", "zak_equalize", "zak_demap")
)


@cache
def admitted() -> frozenset[str]:
    """Names such as `aten::add.out`; the default overload goes without a name."""
    lines = Path(__file__).with_name("operators.txt").read_text(encoding="ascii").splitlines()
    return NATIVE | {f"aten::{line}" for line in lines if line and not line.startswith("#")}


def check_name(name: str) -> None:
    """OperatorNotAdmitted unless a host bundle may call `name`."""
    if name not in admitted():
        raise OperatorNotAdmitted(f"the bundle calls {name[:80]!r}, which a bundle may not do")


def check_names(manifest: Manifest) -> None:
    """OperatorNotAdmitted for the first operator of a host bundle that is not on the list."""
    for function in manifest.functions:
        check_name(function.name)
