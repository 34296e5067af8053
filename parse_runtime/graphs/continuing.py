"""Whether answers can go on with another bundle, in the caches of the one that they began with."""

from __future__ import annotations

from foundryrt.bundle.alike import first_difference
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Manifest
from foundryrt.errors import UsageError
from foundryrt.grow import growing_regions, grown, rows_of

_MEANING = (
    "max_len", "kv_tokens", "eagle_depth", "eagle_width", "fly_window", "fly_entropy",
    "evidence_share", "yes", "no",
)  # fmt: skip
"""Settings that an answer's tokens may depend on, and no shape of the state need tell."""


def shared_regions(own: Bundle, other: Bundle) -> list[str]:
    """What `other` is to share to take the place of `own`; with `state`, answers can go on in it.

    Nothing where one is of several ranks. UsageError where the other bundle is of another workload,
    or, with ranks, of another dtype. Whether the weights are the same is seen when they are shared.
    """
    served, asked = (bundle.manifest.workload.name for bundle in (own, other))
    if served != asked:
        raise UsageError(f"the bundle is of workload {asked!r}, and {served!r} is served")
    if own.manifest.ranks or other.manifest.ranks:
        types = [bundle.manifest.workload.settings["dtype"] for bundle in (own, other)]
        if types[0] != types[1]:
            raise UsageError(
                f"the bundle computes in {types[1]}, the one that is served {types[0]}"
            )
        return []
    if not _continues(own, other):
        return ["weights"]
    return ["weights", "state", *sorted(growing_regions(own.manifest))]


def _continues(own: Bundle, other: Bundle) -> bool:
    """Slots, dtype and the largest verification are in the state's shapes.

    That drafts share passes may not be, and what the target is asked about depends on it.
    """
    mine, others = (bundle.manifest.workload.settings for bundle in (own, other))
    scored = [settings.get("evidence", "0") != "0" for settings in (mine, others)]
    rounded = [settings.get("fp8_activations", False) for settings in (mine, others)]
    return (
        scored[0] == scored[1]
        and rounded[0] == rounded[1]
        and _shares(own) == _shares(other)
        and all(mine.get(name) == others.get(name) for name in _MEANING)
        and first_difference("state", own, other) is None
        and _may_have_as_many_blocks(own, other)
    )


def _may_have_as_many_blocks(own: Bundle, other: Bundle) -> bool:
    """Whether the caches of `other`, where they have regions of their own, may be those of `own`.

    They have as many blocks then as the session of `own` has.
    """
    if growing_regions(own.manifest) != growing_regions(other.manifest):
        return False
    try:
        manifest = grown(other.manifest, rows_of(own.manifest))
    except UsageError:
        return False
    return _caches(manifest) == _caches(own.manifest)


def _caches(manifest: Manifest) -> list[tuple[object, ...]]:
    tensors = (manifest.tensors[growth.tensor] for growth in manifest.growing)
    return sorted((t.name, manifest.regions[t.region].name, t.shape, t.dtype) for t in tensors)


def _shares(bundle: Bundle) -> bool:
    """Whether some verify passes are of several drafts."""
    return any(
        graph.name == "target.verify" and int(graph.key.get("drafts", 1)) > 1
        for graph in bundle.manifest.graphs
    )
