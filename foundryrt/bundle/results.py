"""What a bundle says of its graphs' results: which of them were compared in its proof."""

from __future__ import annotations

from foundryrt.bundle.rules import refer, require, unique
from foundryrt.bundle.schema import Manifest, Tensor
from foundryrt.printable import quoted


def is_result(tensor: Tensor) -> bool:
    """Whether it is an output of one graph: those are compared."""
    return tensor.role == "output" and tensor.graph != -1


def check_unproved(manifest: Manifest) -> None:
    """Raise a BundleError that names the first rule that the unproved outputs break."""
    unproved = manifest.unproved or ()
    require(manifest.relocatable or not unproved, "outputs are unproved, and nothing was proved")
    unique("unproved output", map(str, unproved))
    for index in unproved:
        refer("an unproved output", index, manifest.tensors)
        tensor = manifest.tensors[index]
        require(
            is_result(tensor), f"tensor {quoted(tensor.name)} is unproved, and no graph's output"
        )
