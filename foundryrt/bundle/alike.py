"""Whether two bundles have the same in a region, so that one piece of memory can be both's."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Manifest, Region, WeightRecipe
from foundryrt.errors import UsageError
from foundryrt.printable import quoted

_SHOWN = 8
"""Regions that an error names."""


def given_regions(names: Iterable[str], manifest: Manifest) -> list[Region]:
    """The regions for which memory is given; UsageError where there is none of such a name."""
    known = {region.name: region for region in manifest.regions}
    for name in names:
        if name not in known:
            own = ", ".join(r.name for r in manifest.regions if r.given or not r.owner)
            raise UsageError(f"no region {name!r} to give memory for; there is {own}")
        if known[name].peer_stride:
            raise UsageError(f"region {name!r} is the ranks' own: no memory can be given for it")
    return [known[name] for name in names]


def refuse_missing(names: Collection[str], manifest: Manifest) -> None:
    """UsageError where a region of which the bundle holds nothing is not among `names`."""
    missing = [region for region in manifest.regions if region.given and region.name not in names]
    if missing:
        sizes = ", ".join(f"{quoted(own.name)} ({own.size} bytes)" for own in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UsageError(
            f"graphs of the bundle use memory that you have to give: `place` for {sizes}{more}"
        )


def check_alike(name: str, own: Bundle, other: Bundle) -> None:
    """UsageError unless both have the same tensors from the same sources in a region."""
    if (unlike := first_difference(name, own, other)) is not None:
        raise UsageError(
            f"region {quoted(name)} cannot be shared: the other session's has not the same contents"
            f" (its {quoted(unlike)} differs); only bundles of the same {name} share memory"
        )


def first_difference(name: str, own: Bundle, other: Bundle) -> str | None:
    """What of a region differs: a tensor's name, or `size` or `stored bytes`; None for nothing."""
    mine, others = (_contents(name, bundle) for bundle in (own, other))
    return next((key for key in sorted(mine | others) if mine.get(key) != others.get(key)), None)


def _contents(name: str, bundle: Bundle) -> dict[str, object]:
    """What a region has where, and where it comes from; by tensor, and of the whole."""
    manifest = bundle.manifest
    index = next((i for i, r in enumerate(manifest.regions) if r.name == name), -1)
    recipes: dict[int, list[WeightRecipe]] = {}
    for recipe in manifest.weights.recipes:
        recipes.setdefault(recipe.tensor, []).append(recipe)
    found: dict[str, object] = {
        tensor.name: (tensor.offset, tensor.dtype, tensor.shape, tensor.strides,
                      _sources(manifest, recipes.get(number, ())))
        for number, tensor in enumerate(manifest.tensors)
        if tensor.region == index and tensor.graph == -1
    }  # fmt: skip
    region = manifest.regions[index] if index >= 0 else None
    saved: object = b""
    if region and region.section >= 0:
        saved = bundle.sections[region.section].sha256, region.extents
    return found | {"size": region.size if region else 0, "stored bytes": saved}


def _sources(manifest: Manifest, recipes: Iterable[WeightRecipe]) -> tuple[object, ...]:
    """A weight's copies, by rank, with the digest of what each is copied from."""
    sources = manifest.weights.sources
    return tuple(
        (recipe.rank, sources[copy.source].digest, sources[copy.source].dtype,
         *(getattr(copy, name) for name in copy.__struct_fields__ if name != "source"))
        for recipe in recipes for copy in recipe.copies
    )  # fmt: skip
