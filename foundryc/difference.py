"""What differs between two bundles, said in the terms of the workload."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from foundryc.template import GraphTable
from foundryrt.bundle.builds import builds_of
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Build, GraphEntry, Growth, Region
from foundryrt.bundle.tables import NO_FUNCTION

Difference = dict[str, str]


def compare(a: Bundle, b: Bundle) -> list[Difference]:
    """Every difference as `{what, name, a, b}`; an empty string where one side has nothing."""
    found = _mapping("bundle", _facts(a), _facts(b))
    found += _mapping(
        "setting", _texts(a.manifest.workload.settings), _texts(b.manifest.workload.settings)
    )
    found += _mapping("producer", a.manifest.producer, b.manifest.producer)
    found += _mapping("graph", _graphs(a), _graphs(b))
    found += _mapping("kernel", _kernels(a), _kernels(b))
    found += _mapping("region", _regions(a), _regions(b))
    found += _mapping("tensor", _tensors(a), _tensors(b))
    found += _mapping("weight", _weights(a), _weights(b))
    found += _mapping("file", _files(a), _files(b))
    return found


def graph_title(graph: GraphEntry | GraphTable) -> str:
    """`decode[batch=8]`."""
    key = ", ".join(f"{name}={value}" for name, value in graph.key.items())
    return f"{graph.name}[{key}]" if key else graph.name


def _mapping(what: str, a: Mapping[str, str], b: Mapping[str, str]) -> list[Difference]:
    return [
        {"what": what, "name": name, "a": a.get(name, ""), "b": b.get(name, "")}
        for name in {**a, **b}
        if a.get(name) != b.get(name)
    ]


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: repr(value) for name, value in values.items()}


def _settings(bundle: Bundle) -> dict[str, str]:
    return _texts(bundle.manifest.workload.settings)


def _facts(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    requirements = _texts(msgspec.structs.asdict(manifest.requirements))
    ranks = {"ranks": str(manifest.ranks.world)} if manifest.ranks else {}
    return {"target": manifest.target, "workload": manifest.workload.name, **requirements, **ranks}


def _graphs(bundle: Bundle) -> dict[str, str]:
    """A graph's content in a form that does not depend on the numbering of functions."""
    manifest = bundle.manifest
    described = {}
    parts: list[tuple[str, GraphEntry | Build]] = []
    for graph in manifest.graphs:
        title = graph_title(graph)
        parts.append((title, graph))
        parts += [(f"{title} for {build.architecture}", build) for build in builds_of(graph)]
    for title, part in parts:
        table = bundle.template(part.template)
        words = bundle.member_of(part).apply(table)
        names = [
            "" if number == NO_FUNCTION else manifest.functions[number].name
            for number in table.function.tolist()
        ]
        topology = hashlib.sha256("\0".join(names).encode())
        for column in ("kind", "skeleton_start", "skeleton", "edge_from", "edge_to",
                       "edge_from_port", "edge_to_port", "edge_type"):  # fmt: skip
            topology.update(getattr(table, column).tobytes())
        parameters = hashlib.sha256(words.tobytes()).hexdigest()
        described[title] = (
            f"{len(table.kind)} nodes, topology {topology.hexdigest()[:12]}, "
            f"parameters {parameters[:12]}"
        )
    return described


def _kernels(bundle: Bundle) -> dict[str, str]:
    sections = bundle.sections
    return {
        kernel.sha256.hex()[:16]: f"{sections[kernel.section].raw} bytes"
        for kernel in bundle.manifest.kernels
    }


def _regions(bundle: Bundle) -> dict[str, str]:
    described = {}
    for region in bundle.manifest.regions:
        initial = "" if region.section == -1 else _initial(bundle, region)
        contents = f", initial bytes {initial}" if initial else ""
        given = ", given" if region.given else ""
        slabs = f", slabs of {region.peer_stride}" if region.peer_stride else ""
        described[region.name] = f"{region.size} bytes at {region.base:#x}{contents}{given}{slabs}"
    return described


def _initial(bundle: Bundle, region: Region) -> str:
    """Of what a region begins with: a digest of the bytes, and of where they lie."""
    stored = bundle.sections[region.section].sha256
    if not region.extents:
        return stored.hex()[:12]
    return hashlib.sha256(stored + msgspec.msgpack.encode(region.extents)).hexdigest()[:12]


def _tensors(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    growing = {growth.tensor: growth for growth in manifest.growing}
    unproved = set(manifest.unproved or ())
    described = {}
    for number, tensor in enumerate(manifest.tensors):
        owner = f"{graph_title(manifest.graphs[tensor.graph])}." if tensor.graph != -1 else ""
        region = manifest.regions[tensor.region].name
        described[owner + tensor.name] = (
            f"{tensor.role} {tensor.dtype}{list(tensor.shape)} strides {list(tensor.strides)} "
            f"at {region}+{tensor.offset:#x}{_growth(growing.get(number))}"
            f"{', not compared in the proof' if number in unproved else ''}"
        )
    return described


def _growth(growth: Growth | None) -> str:
    if growth is None:
        return ""
    if growth.refused:
        return f", keeps its rows: {growth.refused}"
    return f", up to {growth.most} rows"


def _weights(bundle: Bundle) -> dict[str, str]:
    weights = bundle.manifest.weights
    return {
        f"{weights.files[source.file].name}:{source.name}": (
            f"{source.dtype}[{source.rows}, {source.columns}] {source.digest.hex()[:12]}"
        )
        for source in weights.sources
    }


def _files(bundle: Bundle) -> dict[str, str]:
    sections = {section.name: section for section in bundle.sections}
    return {name: sections[name].sha256.hex()[:12] for name in bundle.files}
