"""A finished capture, and writing it as a bundle; the same for both targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy.typing as npt

from foundryc.template import GraphTable, share
from foundryc.weights import Piece, build_weights
from foundryrt.bundle.schema import (
    FORMAT_VERSION,
    Function,
    GraphEntry,
    Kernel,
    Manifest,
    Region,
    Requirements,
    SectionKind,
    Template,
    Tensor,
    Workload,
)
from foundryrt.bundle.tables import MEMBER_COLUMNS, TEMPLATE_COLUMNS, pack
from foundryrt.bundle.writer import Buffer, BundleWriter

Setting = None | bool | int | float | str


@dataclass(frozen=True)
class RegionImage:
    """A region and the bytes it begins with; `compress` is off for bytes that would not shrink."""

    name: str
    base: int
    size: int
    initial: Callable[[], Iterable[Buffer]] | None = None
    """Gives the first bytes in order; None where the whole region is zero."""
    compress: bool = True


@dataclass(frozen=True)
class Capture:
    """Everything that a backend found out, before it becomes sections.

    `kernels` are (SHA-256, binary); `pieces` are the recipes of tensors, by tensor index.
    """

    target: str
    requirements: Requirements
    producer: dict[str, str]
    regions: Sequence[RegionImage]
    tensors: Sequence[Tensor]
    functions: Sequence[Function]
    graphs: Sequence[GraphTable]
    kernels: Sequence[tuple[bytes, bytes]] = ()
    pieces: Mapping[int, Sequence[Piece]] = field(default_factory=dict)


def write_bundle(
    path: str | os.PathLike[str],
    capture: Capture,
    workload: str,
    settings: dict[str, Setting],
    files: Mapping[str, bytes],
) -> None:
    """Write `capture` to `path` at once; FoundryError where the disk or a weight file fails."""
    templates, members = share(capture.graphs)
    with BundleWriter(path) as writer:
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            target=capture.target,
            workload=Workload(name=workload, settings=settings),
            requirements=capture.requirements,
            producer=capture.producer,
            provenance={},
            templates=tuple(_template(writer, i, table) for i, table in enumerate(templates)),
            graphs=tuple(
                _graph(writer, i, m.table, m.template, m.columns) for i, m in enumerate(members)
            ),
            kernels=tuple(
                Kernel(
                    sha256=digest,
                    section=writer.add(SectionKind.KERNEL, f"kernel {digest.hex()[:16]}", data),
                )
                for digest, data in capture.kernels
            ),
            regions=tuple(_region(writer, image) for image in capture.regions),
            tensors=tuple(capture.tensors),
            functions=tuple(capture.functions),
            weights=build_weights(sorted(capture.pieces.items())),
        )
        for name, data in files.items():
            writer.add(SectionKind.FILE, name, data)
        writer.finish(manifest)


def _template(writer: BundleWriter, index: int, table: GraphTable) -> Template:
    columns, data = pack(table.columns(), TEMPLATE_COLUMNS)
    section = writer.add(SectionKind.TEMPLATE, f"template {index}", data)
    return Template(
        section=section, nodes=len(table.kinds), edges=len(table.edges), columns=columns
    )


def _graph(
    writer: BundleWriter,
    index: int,
    table: GraphTable,
    template: int,
    member: Mapping[str, npt.ArrayLike],
) -> GraphEntry:
    columns, data = pack(member, MEMBER_COLUMNS)
    section = writer.add(SectionKind.MEMBER, f"graph {index}", data)
    return GraphEntry(
        name=table.name, key=table.key, template=template, section=section, columns=columns
    )


def _region(writer: BundleWriter, image: RegionImage) -> Region:
    section = -1
    if image.initial is not None:
        section = writer.add(SectionKind.REGION, image.name, image.initial(), image.compress)
    return Region(name=image.name, base=image.base, size=image.size, section=section)
