"""Bundles for GPUs of several architectures: every graph has a build for each of the others."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from foundryrt.bundle.rules import refer, require, unique
from foundryrt.bundle.schema import Build, GraphEntry, Manifest
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted


def builds_of(graph: GraphEntry) -> tuple[Build, ...]:
    """Those for other architectures than the bundle's own."""
    return graph.builds or ()


def with_builds(graph: GraphEntry) -> tuple[GraphEntry | Build, ...]:
    """The graph, then those."""
    return (graph, *builds_of(graph))


def architectures(manifest: Manifest) -> tuple[str, ...]:
    """Those that the bundle can run on, its own first; none on host."""
    own = manifest.requirements.architecture
    others = [build.architecture for graph in manifest.graphs[:1] for build in builds_of(graph)]
    return (own, *others) if own else ()


def built_for(manifest: Manifest, architecture: str) -> Manifest:
    """The manifest as a bundle would have it that was captured on such a GPU.

    FoundryError where it has no build for it.
    """
    there = architectures(manifest)
    if architecture not in there:
        raise FoundryError(
            f"the bundle has kernels for {', '.join(there)}, this GPU is {architecture}; capture it"
            f" again with --arch {architecture}"
        )
    needs, weights = manifest.requirements, manifest.weights
    if architecture != needs.architecture:
        # That kernel is of the bundle's own architecture: the CPU takes the digests.
        weights = replace(weights, digest_kernel=-1)
    return replace(
        manifest,
        graphs=tuple(_built_for(graph, architecture) for graph in manifest.graphs),
        requirements=replace(needs, architecture=architecture),
        weights=weights,
    )


def _built_for(graph: GraphEntry, architecture: str) -> GraphEntry:
    for build in builds_of(graph):
        if build.architecture == architecture:
            return replace(
                graph,
                template=build.template,
                section=build.section,
                columns=build.columns,
                builds=UNSET,
            )
    return replace(graph, builds=UNSET)


def check_builds(manifest: Manifest) -> None:
    """Raise a BundleError that names the first rule that a build breaks."""
    there = architectures(manifest)
    unique("architecture", there)
    require(all(there), "a build is for no architecture")
    for graph in manifest.graphs:
        where, builds = f"graph {quoted(graph.name)}", builds_of(graph)
        require(manifest.target == "cuda" or not builds, f"{where} of a host bundle has builds")
        found = tuple(build.architecture for build in builds)
        require(found == there[1:], f"{where} is built for {quoted(', '.join(found))}")
        for build in builds:
            refer(f"{where}: a build", build.template, manifest.templates)
