"""Whether two bundles are of the same weights, where each reads other parts of the files.

The ranks of one read other rows of a tensor than those of another, or one process the whole.
"""

from __future__ import annotations

from pathlib import Path

from foundryrt.bundle.schema import Manifest, WeightFile, WeightSource
from foundryrt.errors import UsageError
from foundryrt.printable import quoted
from foundryrt.progress import progress_bar
from foundryrt.weight_files import map_file
from foundryrt.weights import find_file, hasher

Part = tuple[str, int, int]
"""A file's name, where the part begins, and its bytes."""


def check_same_weights(own: Manifest, other: Manifest, folder: Path | None) -> None:
    """UsageError unless both read the same tensors, with the same contents.

    Digests tell so of parts that both read. What `own` alone reads is looked for in the files of
    `other`, which are read for it: in `folder`, or where they were at its capture.
    """
    for manifest in (own, other):
        if not manifest.weights.sources:
            raise UsageError(
                "weights cannot be compared where a bundle holds them itself: capture it without"
                " --embed-weights"
            )
    tensors = [_tensors(manifest) for manifest in (own, other)]
    if unlike := sorted(tensors[0] ^ tensors[1]):
        raise UsageError(f"the bundle has other weights ({quoted(unlike[0][1])})")
    files = {file.name: file for file in other.weights.files}
    theirs, left = _parts(other), list[tuple[WeightFile, WeightSource]]()
    for part, source in _parts(own).items():
        same = theirs.get(part)
        if same is None or bool(same.blake3) != bool(source.blake3):
            left.append((files[part[0]], source))
        elif same.digest != source.digest:
            raise _unlike(source)
    with progress_bar(len(left), "comparing weights") as update:
        for number, (file, source) in enumerate(left, 1):
            _check(file, source, folder)
            update(number)


def _check(file: WeightFile, source: WeightSource, folder: Path | None) -> None:
    data = map_file(find_file(file, folder))[source.offset : source.offset + source.length]
    taken = hasher(source)
    taken.update(data)
    if taken.digest() != source.digest:
        raise _unlike(source)


def _unlike(source: WeightSource) -> UsageError:
    return UsageError(f"the bundle has other weights ({quoted(source.name)})")


def _tensors(manifest: Manifest) -> set[tuple[str, str, str]]:
    """File, name and dtype of each; a part is named `tensor[first row:end]`."""
    files = manifest.weights.files
    return {
        (files[source.file].name, source.name.partition("[")[0], source.dtype)
        for source in manifest.weights.sources
    }


def _parts(manifest: Manifest) -> dict[Part, WeightSource]:
    files = manifest.weights.files
    return {
        (files[source.file].name, source.offset, source.length): source
        for source in manifest.weights.sources
    }
