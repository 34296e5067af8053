"""The manifest's own rules: references, names, ranges. Nothing here touches a graph table."""

from __future__ import annotations

from collections.abc import Sequence

from foundryrt.bundle.builds import architectures, check_builds, with_builds
from foundryrt.bundle.errors import (
    InvalidReference,
    InvalidValue,
    RegionOverlap,
    TensorOutOfBounds,
)
from foundryrt.bundle.extents import by_extent, check_extents, extents_of
from foundryrt.bundle.layout import Section, printable
from foundryrt.bundle.ranks import check_ranks
from foundryrt.bundle.results import check_unproved
from foundryrt.bundle.rules import refer as _refer
from foundryrt.bundle.rules import require as _require
from foundryrt.bundle.rules import unique as _unique
from foundryrt.bundle.schema import (
    ALIGNMENT,
    DTYPES,
    FORMAT_VERSION,
    MAX_REGIONS,
    REGIONS,
    ROLES,
    TARGETS,
    Extent,
    Manifest,
    Relocation,
    SectionKind,
    Tensor,
)
from foundryrt.bundle.weights import check_weights
from foundryrt.printable import quoted

ADDRESS_LIMIT = 1 << 57
"""Virtual addresses of the widest machine in use; also keeps every sum far from 64 bits."""

_FOREIGN_ALIGNMENT = 16
"""Bytes; what the driver gives out begins at multiples of 256, variables of modules may not."""

_SELF_CONTAINED = (SectionKind.FILE, SectionKind.MANIFEST, SectionKind.SIGNATURE)


def check_manifest(manifest: Manifest, sections: tuple[Section, ...]) -> None:
    """Raise a BundleError that names the first rule the manifest breaks."""
    _require(manifest.format_version == FORMAT_VERSION, "format_version is not the file's")
    _require(manifest.target in TARGETS, f"target {quoted(manifest.target)}, need one of {TARGETS}")
    _check_text(manifest)
    _check_sections(manifest, sections)
    _check_regions(manifest, sections)
    for tensor in manifest.tensors:
        _check_tensor(tensor, manifest)
    _check_growth(manifest)
    check_ranks(manifest)
    check_unproved(manifest)
    _unique("tensor", ((tensor.graph, tensor.name) for tensor in manifest.tensors))
    _unique("graph", ((g.name, tuple(sorted(g.key.items()))) for g in manifest.graphs))
    for function in manifest.functions:
        if function.kernel != -1 or manifest.target == "cuda":
            _refer("function", function.kernel, manifest.kernels)
    _check_random(manifest)
    for graph in manifest.graphs:
        _refer(f"graph {quoted(graph.name)}", graph.template, manifest.templates)
    check_builds(manifest)
    for template in manifest.templates:
        _require(template.nodes >= 0 and template.edges >= 0, "a template's counts are negative")
    for variable in manifest.variables:
        _refer("variable", variable.kernel, manifest.kernels)
        _require(len(variable.data) > 0, "a variable is empty")
        where = f"variable {quoted(variable.name)}"
        whole = (Extent(offset=0, size=len(variable.data)),)
        _check_relocations(where, variable.relocations, whole, manifest)
    _unique("variable", ((variable.kernel, variable.name) for variable in manifest.variables))
    for kernel in manifest.kernels:
        _require(len(kernel.sha256) == 32, "a kernel's digest has not 32 bytes")
    _unique("kernel", (kernel.sha256 for kernel in manifest.kernels))
    check_weights(manifest)


def _check_text(manifest: Manifest) -> None:
    """Everything that a command may print is free of control characters."""
    names = [manifest.workload.name, *manifest.workload.settings]
    names += [text for pair in manifest.producer.items() for text in pair if text]
    names += [thing.name for thing in manifest.tensors + manifest.functions + manifest.graphs]
    names += [variable.name for variable in manifest.variables]
    names += [text for r in manifest.regions for text in (r.name, r.owner) if text]
    for graph in manifest.graphs:
        names += [text for pair in graph.key.items() for text in pair if isinstance(text, str)]
    names += [thing.name for thing in manifest.weights.files + manifest.weights.sources]
    for name in names:
        _require(printable(name), f"name {quoted(name)} is empty or not printable")
    requirements = manifest.requirements
    for text in (*architectures(manifest), requirements.torch):
        _require(not text or printable(text), f"requirement {quoted(text)} is not printable")
    _require(requirements.driver >= 0, "the driver version is negative")


def _check_sections(manifest: Manifest, sections: tuple[Section, ...]) -> None:
    """Each section is used by exactly one thing, and that thing is of its kind."""
    users = [(SectionKind.TEMPLATE, template.section) for template in manifest.templates]
    members = [part for graph in manifest.graphs for part in with_builds(graph)]
    users += [(SectionKind.MEMBER, member.section) for member in members]
    users += [(SectionKind.KERNEL, kernel.section) for kernel in manifest.kernels]
    users += [(SectionKind.REGION, r.section) for r in manifest.regions if r.section != -1]
    for kind, index in users:
        _refer(f"a {kind.name.lower()}", index, sections)
        if sections[index].kind != kind:
            raise InvalidReference(f"manifest: {sections[index]} is used as a {kind.name.lower()}")
    _unique("section use", (index for _, index in users))
    used = {index for _, index in users}
    for index, section in enumerate(sections):
        if section.known and section.kind not in _SELF_CONTAINED and index not in used:
            raise InvalidReference(f"manifest: nothing uses {section}")


def _check_regions(manifest: Manifest, sections: tuple[Section, ...]) -> None:
    _unique("region", (region.name for region in manifest.regions))
    _require(len(manifest.regions) <= MAX_REGIONS, f"more than {MAX_REGIONS} regions")
    _require(
        not manifest.relocatable or manifest.target == "cuda", "a host bundle relocates nothing"
    )
    end, before = 0, ""
    for region in sorted(manifest.regions, key=lambda region: region.base):
        where = f"region {quoted(region.name)}"
        _require(
            (region.name in REGIONS) != bool(region.owner),
            f"{where} is none of {', '.join(REGIONS)}, and nobody's"
            if not region.owner
            else f"{where} of {quoted(region.owner)} has the name of a part of the arena",
        )
        alignment = _FOREIGN_ALIGNMENT if region.owner else ALIGNMENT
        _require(
            region.base >= 0 and region.base % alignment == 0 and region.size >= 0,
            f"{where} has base {region.base}, size {region.size}",
        )
        _require(region.base + region.size <= ADDRESS_LIMIT, f"{where} ends beyond 2^57")
        _require(
            region.peer_stride >= 0 and (region.peer_stride == 0 or region.name == "symmetric"),
            f"{where} has peer stride {region.peer_stride}",
        )
        if region.base < end:
            raise RegionOverlap(f"manifest: {where} begins inside {quoted(before)}")
        end, before = region.base + region.size, region.name
        saved = 0 if region.section == -1 else sections[region.section].raw
        if saved > region.size:
            raise InvalidValue(f"manifest: the initial bytes of {where} are more than the region")
        check_extents(where, region, saved)
        _require(
            not region.given or (bool(region.owner) and region.section == -1),
            f"{where} is to be given, but is not foreign or has initial bytes",
        )
        _check_relocations(where, region.relocations, extents_of(region, saved), manifest)
    # Of the ranks' slabs a process has its own.
    total = sum(
        region.peer_stride or region.size for region in manifest.regions if not region.given
    )
    _require(manifest.requirements.memory >= total, "memory is less than the regions need")


def _check_relocations(
    where: str, relocations: tuple[Relocation, ...], extents: Sequence[Extent], manifest: Manifest
) -> None:
    """Addresses among the bytes at these places."""
    checked = 0
    for extent, own in by_extent(extents, relocations):
        end, last = extent.offset, extent.offset + extent.size - 8
        for relocation in own:
            _refer(f"{where}: a relocation", relocation.region, manifest.regions)
            at = relocation.offset
            _require(at % 8 == 0, f"{where}: a relocation at byte {at}, which is no multiple of 8")
            _require(
                end <= at <= last,
                f"{where}: a relocation at byte {at} overlaps another one, or lies in part where"
                " nothing is stored",
            )
            end = at + 8
        checked += len(own)
    _require(checked == len(relocations), f"{where}: a relocation behind all that is stored")


def _check_random(manifest: Manifest) -> None:
    steps = [graph.random for graph in manifest.graphs]
    _require(all(0 <= step < 1 << 63 for step in steps), "a graph's random step is out of range")
    random = manifest.random
    if random is None:
        _require(not any(steps), "graphs draw random numbers, and no generator is there")
        return
    for what, index in (("seed", random.seed), ("offset", random.offset)):
        _refer(f"the random {what}", index, manifest.tensors)
        tensor = manifest.tensors[index]
        where = f"the random {what}, tensor {quoted(tensor.name)},"
        _require((tensor.dtype, tensor.shape) == ("int64", (1,)), f"{where} is no int64 [1]")
    _require(0 <= random.initial_seed < 1 << 64, "the random seed is out of range")


def _check_growth(manifest: Manifest) -> None:
    _unique("growing tensor", (str(growth.tensor) for growth in manifest.growing))
    for growth in manifest.growing:
        _refer("a growing tensor", growth.tensor, manifest.tensors)
        tensor = manifest.tensors[growth.tensor]
        where, region = f"tensor {quoted(tensor.name)}", manifest.regions[tensor.region]
        others = [other for other in manifest.tensors if other.region == tensor.region]
        _require(
            bool(region.owner) and tensor.offset == 0 and len(others) == 1 and tensor.graph == -1,
            f"{where} grows, and is not alone in a region",
        )
        row = extent(tensor.shape[1:], tensor.strides[1:])
        _require(
            bool(tensor.shape) and tensor.shape[0] > 0 and 0 < row <= tensor.strides[0],
            f"{where} grows, and has no rows",
        )
        most, limit = growth.most, ADDRESS_LIMIT // (tensor.strides[0] * DTYPES[tensor.dtype])
        _require(tensor.shape[0] <= most <= limit, f"{where} grows to {most} rows")


def _check_tensor(tensor: Tensor, manifest: Manifest) -> None:
    where = f"tensor {quoted(tensor.name)}"
    _refer(where, tensor.region, manifest.regions)
    if tensor.graph != -1:
        _refer(where, tensor.graph, manifest.graphs)
    _require(tensor.dtype in DTYPES, f"{where} has dtype {quoted(tensor.dtype)}")
    _require(tensor.role in ROLES, f"{where} has role {quoted(tensor.role)}")
    dims = (*tensor.shape, *tensor.strides)
    _require(len(tensor.shape) == len(tensor.strides), f"{where}: shape and strides")
    _require(all(0 <= dim < ADDRESS_LIMIT for dim in dims), f"{where}: shape or strides")
    if tensor.offset < 0 or tensor.offset % DTYPES[tensor.dtype]:
        raise InvalidValue(f"manifest: {where} begins at offset {tensor.offset}")
    end = tensor.offset + extent(tensor.shape, tensor.strides) * DTYPES[tensor.dtype]
    size = manifest.regions[tensor.region].size
    if end > size:
        raise TensorOutOfBounds(f"manifest: {where} ends at byte {end} of a region of {size}")


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last one of a strided tensor; 0 for an empty one."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
