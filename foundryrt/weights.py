"""Weight files: where they are, and that they hold what they held at capture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from foundryrt.bundle.schema import Manifest, WeightFile, WeightRecipe, WeightSource
from foundryrt.errors import FoundryError


class WeightsMissing(FoundryError):
    """A weight file is not where it was at capture, nor in the folder given."""


class WeightsChanged(FoundryError):
    """A weight file is not the one that the bundle was captured with."""


def recipes_of(manifest: Manifest, rank: int) -> list[WeightRecipe]:
    """The recipes that fill the tensors of a rank."""
    return [recipe for recipe in manifest.weights.recipes if recipe.rank in (-1, rank)]


def weight_paths(manifest: Manifest, folder: Path | None) -> list[Path]:
    """Where each weight file should be: in `folder` when given, else where it was at capture."""
    return [_place(file, folder) for file in manifest.weights.files]


def _place(file: WeightFile, folder: Path | None) -> Path:
    if folder:
        return folder / file.name
    below = file.hint.removeprefix("~/")
    return Path(file.hint) if below == file.hint else _home() / below


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        return Path("~")


def find_file(file: WeightFile, folder: Path | None) -> Path:
    """Where a weight file is; WeightsMissing or WeightsChanged where it is not as at capture."""
    path = _place(file, folder)
    if not path.is_file():
        raise WeightsMissing(
            f"weights: {path} is not there; give the folder that holds {file.name} with --weights"
        )
    if path.stat().st_size != file.size:
        raise WeightsChanged(
            f"weights: {path} has {path.stat().st_size} bytes, the bundle was captured with "
            f"{file.size}; capture again, or give the original with --weights"
        )
    return path


class Hasher(Protocol):
    """What hashlib and blake3 offer alike."""

    def update(self, data: memoryview, /) -> object:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """The digest of what was taken in."""


def hasher(source: WeightSource) -> Hasher:
    """A hasher of the kind that the source's digest is of."""
    if not source.blake3:
        return hashlib.sha256()
    from blake3 import blake3

    return blake3()


def check_source(source: WeightSource, data: memoryview, path: Path) -> None:
    """WeightsChanged where the bytes of a source are not those of the capture."""
    taken = hasher(source)
    taken.update(data)
    check_digest(source, taken.digest(), path)


def check_digest(source: WeightSource, digest: bytes, path: Path) -> None:
    """WeightsChanged where a source's bytes have another digest than at capture."""
    if digest != source.digest:
        raise WeightsChanged(
            f"weights: {source.name!r} in {path} is not what the bundle was captured with; "
            "capture again, or give the original with --weights"
        )
