"""Whether two bundles are of the same weights, where each reads other parts of the files.

The ranks of one read other rows of a tensor than those of another, or one process the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from threading import Lock

from foundryrt.bundle.schema import Manifest, WeightSource
from foundryrt.errors import UsageError
from foundryrt.parallel import each
from foundryrt.printable import quoted
from foundryrt.progress import progress_bar
from foundryrt.weight_files import FileState, map_file, states_by_name
from foundryrt.weights import find_file, hasher

Part = tuple[str, int, int]
"""A file's name, where the part begins, and its bytes."""


def check_same_weights(
    own: Manifest,
    other: Manifest,
    folder: Path | None,
    compared: Mapping[str, FileState] | None = None,
) -> None:
    """UsageError unless both read the same tensors, with the same contents.

    Digests tell so of parts that both read. What `own` alone reads is looked for in the files of
    `other`, in `folder`, or where they were at its capture. A file is read for it unless it is as
    in `compared`, by name: in that state its contents were compared with the digests of `own`.
    Those of `other` are compared when it is loaded.
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
    theirs, left = _parts(other), defaultdict[str, list[WeightSource]](list)
    for part, source in _parts(own).items():
        same = theirs.get(part)
        if same is None or bool(same.blake3) != bool(source.blake3):
            left[part[0]].append(source)
        elif same.digest != source.digest:
            raise _unlike(source)
    now, unread = states_by_name(other, folder), list[tuple[memoryview, WeightSource]]()
    for name, sources in left.items():
        path = find_file(files[name], folder)
        if compared is None or name not in compared or compared[name] != now.get(name):
            data = map_file(path)
            unread += [(data, source) for source in sources]
    done, order = count(1), Lock()
    with progress_bar(len(unread), "comparing weights") as update:

        def check(part: tuple[memoryview, WeightSource]) -> None:
            _check(*part)
            with order:
                update(next(done))

        each(check, unread)


def _check(file: memoryview, source: WeightSource) -> None:
    data = file[source.offset : source.offset + source.length]
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
