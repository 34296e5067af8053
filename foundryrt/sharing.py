"""Which of several ranks takes the digest of a weight source: each is taken once, by one of them.

All ranks find the same answer in the manifest, so that nobody has to tell. It holds for the bytes
that the others read as long as they read the same file: see `weight_files.FileState`.
"""

from __future__ import annotations

from foundryrt.bundle.schema import Manifest


def digested_by(manifest: Manifest, rank: int) -> set[int]:
    """The sources whose digests a rank takes, by index."""
    return {source for source, other in digesters(manifest).items() if other == rank}


def digesters(manifest: Manifest) -> dict[int, int]:
    """For each source, by index, one of the ranks that need it, so that bytes are spread evenly.

    Those that few ranks need are given out first, and the longest among equals; each goes to the
    rank that has the fewest bytes by then.
    """
    sources = manifest.weights.sources
    taken = [0] * (manifest.ranks.world if manifest.ranks else 1)
    needed: dict[int, set[int]] = {}
    for recipe in manifest.weights.recipes:
        ranks = range(len(taken)) if recipe.rank < 0 else (recipe.rank,)
        for copy in recipe.copies:
            needed.setdefault(copy.source, set()).update(ranks)
    found = {}
    for source in sorted(needed, key=lambda i: (len(needed[i]), -sources[i].length, i)):
        rank = min(needed[source], key=lambda rank: (taken[rank], rank))
        taken[rank] += sources[source].length
        found[source] = rank
    return found
