"""A capture as a bundle: its sections and the manifest that lists them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from foundryc.capture import Capture, RegionImage
from foundryc.packed import Packed
from foundryc.template import GraphTable, Member, share
from foundryc.weights import build_weights
from foundryrt.bundle.schema import (
    FORMAT_VERSION,
    Build,
    Column,
    Extent,
    GraphEntry,
    Kernel,
    Manifest,
    Region,
    SectionKind,
    Template,
    Weights,
    Workload,
)
from foundryrt.bundle.tables import MEMBER_COLUMNS, TEMPLATE_COLUMNS, pack
from foundryrt.bundle.writer import BundleWriter

Setting = None | bool | int | float | str


def write_bundle(
    path: str | os.PathLike[str],
    capture: Capture,
    workload: str,
    settings: Mapping[str, Setting],
    files: Mapping[str, bytes],
) -> None:
    """Write `capture` to `path` at once; FoundryError where the disk or a weight file fails."""
    with BundleWriter(path) as writer:
        templates, graphs = _graphs(writer, capture.graphs)
        kernels = tuple(_kernel(writer, data) for data in capture.kernels)
        weights = _weights(capture)
        regions = tuple(_region(writer, image) for image in capture.regions)
        for name, data in files.items():
            writer.add(SectionKind.FILE, name, data)
        writer.finish(
            Manifest(
                format_version=FORMAT_VERSION,
                target=capture.target,
                workload=Workload(name=workload, settings=dict(settings)),
                requirements=capture.requirements,
                producer=capture.producer,
                provenance=capture.provenance,
                regions=regions,
                tensors=tuple(capture.tensors),
                kernels=kernels,
                functions=tuple(capture.functions),
                variables=tuple(capture.variables),
                templates=templates,
                graphs=graphs,
                weights=weights,
                random=capture.random,
                relocatable=capture.relocatable,
                growing=tuple(capture.growing),
                ranks=capture.ranks or msgspec.UNSET,
                unproved=tuple(capture.unproved) or msgspec.UNSET,
            )
        )


def _graphs(
    writer: BundleWriter, tables: Sequence[GraphTable]
) -> tuple[tuple[Template, ...], tuple[GraphEntry, ...]]:
    """Each template lies before its first member, so that one graph is read in one go."""
    shared, members = share(tables)
    templates: list[Template] = []

    def place(member: Member, name: str) -> tuple[int, dict[str, Column]]:
        if member.template == len(templates):
            templates.append(_template(writer, member.template, shared[member.template]))
        columns, data = pack(member.columns, MEMBER_COLUMNS)
        return writer.add(SectionKind.MEMBER, name, data), columns

    graphs = []
    for index, member in enumerate(members):
        section, columns = place(member, f"graph {index}")
        builds = []
        for architecture, build in member.builds.items():
            own, its = place(build, f"graph {index} {architecture}")
            builds.append(
                Build(architecture=architecture, template=build.template, section=own, columns=its)
            )
        graphs.append(
            GraphEntry(
                name=member.graph.name,
                key=member.graph.key,
                template=member.template,
                section=section,
                columns=columns,
                random=member.graph.random,
                builds=tuple(builds) or msgspec.UNSET,
            )
        )
    return tuple(templates), tuple(graphs)


def _template(writer: BundleWriter, index: int, table: GraphTable) -> Template:
    columns, data = pack(table.columns, TEMPLATE_COLUMNS)
    section = writer.add(SectionKind.TEMPLATE, f"template {index}", data)
    return Template(section=section, nodes=table.nodes, edges=table.edges, columns=columns)


def _kernel(writer: BundleWriter, data: bytes) -> Kernel:
    digest = hashlib.sha256(data).digest()
    # As it is: a start would wait for a binary to be decompressed.
    section = writer.add(SectionKind.KERNEL, f"kernel {digest.hex()[:16]}", data, compress=False)
    return Kernel(sha256=digest, section=section)


def _region(writer: BundleWriter, image: RegionImage) -> Region:
    section = -1
    extents: tuple[Extent, ...] = ()
    if image.initial is not None:
        packed = Packed(image.initial())
        parts = iter(packed)
        if (first := next(parts, None)) is not None:
            parts = chain([first], parts)
            section = writer.add(SectionKind.REGION, image.name, parts, image.compress)
        extents = packed.extents
    return Region(
        name=image.name,
        base=image.base,
        size=image.size,
        section=section,
        owner=image.owner,
        written=image.written,
        relocations=image.relocations,
        given=image.given,
        peer_stride=image.peer_stride,
        extents=extents or msgspec.UNSET,
    )


def _weights(capture: Capture) -> Weights:
    recipes = build_weights(sorted(capture.slices.items()))
    return msgspec.structs.replace(recipes, digest_kernel=capture.digest_kernel)
