"""What `foundryc` says about a bundle: a page for people, JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from rich.filesize import decimal

from foundryc.difference import Difference, graph_title
from foundryrt.bundle.builds import architectures
from foundryrt.bundle.layout import Codec
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.results import is_result
from foundryrt.bundle.schema import GraphEntry, Manifest, Region, SectionKind
from foundryrt.console import print_table, printable, write

_SHOWN = 10
"""Outputs that were not compared, which may be thousands."""


def summary(bundle: Bundle) -> dict[str, Any]:
    """The few figures that a capture ends with."""
    manifest = bundle.manifest
    return {
        "workload": manifest.workload.name,
        "target": manifest.target,
        "graphs": len(manifest.graphs),
        "templates": len(manifest.templates),
        "nodes": sum(manifest.templates[graph.template].nodes for graph in manifest.graphs),
        "kernels": len(manifest.kernels),
        "architectures": list(architectures(manifest)),
        "arena_bytes": manifest.requirements.memory,
        "foreign_regions": sum(bool(region.owner) for region in manifest.regions),
        "foreign_bytes": sum(region.size for region in manifest.regions if region.owner),
        "foreign": _foreign(manifest),
        "relocatable": manifest.relocatable,
        "proof": _proof(manifest),
        "ranks": manifest.ranks.world if manifest.ranks else 1,
        "weight_bytes": sum(source.length for source in manifest.weights.sources),
        "bundle_bytes": bundle.path.stat().st_size,
        "digest": bundle.digest.hex(),
    }


def print_summary(path: Path, figures: dict[str, Any]) -> None:
    """One paragraph after a capture."""
    came = {"hit": ", taken from the cache", "captured": ", captured here"}
    write(
        f"{printable(path)}: {figures['graphs']} graphs, {figures['nodes']} nodes in "
        f"{figures['templates']} templates, {decimal(figures['bundle_bytes'])} "
        f"(arena {decimal(figures['arena_bytes'])}), target {figures['target']}"
        f"{came.get(figures.get('cache', ''), '')}\n"
    )
    write("".join(f"{label:5}  {printable(line)}\n" for label, line in _proved(figures["proof"])))
    if figures["foreign"]:
        _print_foreign(figures["foreign"])


def as_json(bundle: Bundle) -> dict[str, Any]:
    """The whole manifest and section table; digests in hexadecimal."""
    sections = [
        {
            "kind": SectionKind(section.kind).name.lower() if section.known else section.kind,
            "name": section.name,
            "offset": section.offset,
            "stored_bytes": section.stored,
            "raw_bytes": section.raw,
            "codec": _codec(section.codec),
            "sha256": section.sha256.hex(),
            "optional": section.optional,
        }
        for section in bundle.sections
    ]
    manifest = msgspec.to_builtins(bundle.manifest, builtin_types=(bytes,))
    return {
        **summary(bundle),
        "signers": [entry.key_id for entry in bundle.signatures],
        "manifest": _hexadecimal(manifest),
        "sections": sections,
    }


def print_bundle(bundle: Bundle) -> None:
    """The page of `foundryc inspect`."""
    manifest = bundle.manifest
    write(f"{printable(bundle.path)}, format {manifest.format_version}\n")
    facts = _facts(bundle)
    width = max(len(name) for name, _ in facts)
    write("".join(f"{name:{width}}  {printable(value)}\n" for name, value in facts))
    members = Counter(graph.template for graph in manifest.graphs)
    print_table(
        "Graphs", ("graph", "template", "nodes", "edges", "members", "own words"),
        (
            (graph_title(graph), graph.template, manifest.templates[graph.template].nodes,
             manifest.templates[graph.template].edges, members[graph.template], _words(graph))
            for graph in manifest.graphs
        ),
    )  # fmt: skip
    print_table(
        "Regions", ("region", "base", "size", "initial bytes", "tensors"),
        (
            (region.name, f"{region.base:#x}", _size(region),
             _initial(bundle, region),
             sum(tensor.region == index for tensor in manifest.tensors))
            for index, region in enumerate(manifest.regions) if not region.owner
        ),
    )  # fmt: skip
    if foreign := _foreign(manifest):
        _print_foreign(foreign)
    if manifest.kernels:
        callers = Counter(function.kernel for function in manifest.functions)
        print_table(
            "Kernels", ("sha256", "size", "functions"),
            (
                (kernel.sha256.hex()[:16], decimal(bundle.sections[kernel.section].raw),
                 callers[index])
                for index, kernel in enumerate(manifest.kernels)
            ),
        )  # fmt: skip
    if manifest.weights.files:
        used = Counter(source.file for source in manifest.weights.sources)
        print_table(
            "Weights", ("file", "size", "tensors used"),
            (
                (file.name, decimal(file.size), used[index])
                for index, file in enumerate(manifest.weights.files)
            ),
        )  # fmt: skip
    print_table(
        "Sections", ("section", "kind", "stored", "raw", "codec"),
        (
            (section.name,
             SectionKind(section.kind).name.lower() if section.known else f"{section.kind}",
             decimal(section.stored), decimal(section.raw), _codec(section.codec))
            for section in bundle.sections
        ),
    )  # fmt: skip


def _facts(bundle: Bundle) -> list[tuple[str, object]]:
    manifest = bundle.manifest
    requirements = manifest.requirements
    needs = [f"{decimal(requirements.memory)} arena"]
    needs += [" or ".join(architectures(manifest))] if requirements.architecture else []
    needs += [f"driver {requirements.driver} or later"] if requirements.driver else []
    needs += [f"torch {requirements.torch}"] if requirements.torch else []
    settings = manifest.workload.settings.items()
    return [
        ("workload", manifest.workload.name),
        *(("", f"{name} = {value!r}") for name, value in settings),
        ("target", manifest.target),
        ("needs", ", ".join(needs)),
        *(
            [("ranks", f"{manifest.ranks.world}, each a process of its own that needs as much")]
            if manifest.ranks
            else []
        ),
        *([("lies", _place(manifest))] if manifest.target == "cuda" else []),
        *_proved(_proof(manifest)),
        ("made by", ", ".join(f"{name} {value}" for name, value in manifest.producer.items())),
        *(
            (
                f"tensor {manifest.tensors[growth.tensor].name}",
                f"keeps its rows: {growth.refused}"
                if growth.refused
                else f"may have up to {growth.most} rows",
            )
            for growth in manifest.growing
        ),
        ("digest", bundle.digest.hex()),
        *(
            ("signed by", f"{entry.key_id[:16]} (checked by verify --trust)")
            for entry in bundle.signatures
        ),
    ]


def _place(manifest: Manifest) -> str:
    base = min((region.base for region in manifest.regions if not region.owner), default=0)
    if manifest.relocatable:
        return f"anywhere; at {base:#x} where that is free"
    return f"at {base:#x} and nowhere else"


def _proof(manifest: Manifest) -> dict[str, Any] | None:
    """How many outputs gave the same bytes when the bundle ran at another place, and which were not
    compared; None where it did not run there."""
    if not manifest.relocatable:
        return None
    unproved = manifest.unproved or ()
    outputs = sum(map(is_result, manifest.tensors))
    return {
        "outputs": outputs,
        "compared": outputs - len(unproved),
        "not_compared": [
            {"graph": graph_title(manifest.graphs[tensor.graph]), "output": tensor.name}
            for tensor in (manifest.tensors[number] for number in unproved)
        ],
    }


def _proved(proof: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The same in lines, each with a label."""
    if proof is None:
        return []
    if not proof["compared"]:
        lines = [f"none: no output was compared, of {proof['outputs']}"]
    else:
        lines = [f"{proof['compared']} of {proof['outputs']} outputs are the same at another place"]
    left_out = [f"graph {entry['graph']}: {entry['output']!r}" for entry in proof["not_compared"]]
    if left_out:
        lines.append("not compared, as two runs differ, or other code captured the graph:")
        lines += left_out[:_SHOWN]
    if len(left_out) > _SHOWN:
        lines.append(f"and {len(left_out) - _SHOWN} more, which --json lists")
    return [("" if row else "proof", line) for row, line in enumerate(lines)]


def _size(region: Region) -> str:
    if not region.peer_stride:
        return decimal(region.size)
    return f"{region.size // region.peer_stride} slabs of {decimal(region.peer_stride)}"


def _initial(bundle: Bundle, region: Region) -> str:
    """How much of a region is stored, and how far into it that lies."""
    if region.section == -1:
        return "zero"
    stored = decimal(bundle.sections[region.section].raw)
    if not region.extents:
        return stored
    first, last = region.extents[0].offset, region.extents[-1].offset
    places = len(region.extents)
    if places == 1:
        return f"{stored} at byte {first:,}"
    return f"{stored} in {places} places, from byte {first:,} to {last:,}"


def _foreign(manifest: Manifest) -> list[dict[str, Any]]:
    """Memory that was made outside the recorder, by who made it, the largest first.

    `written` is whether graphs were seen to write to it, in the proof: None where there was none.
    """
    found: dict[str, list[Region]] = {}
    for region in manifest.regions:
        if region.owner:
            found.setdefault(region.owner, []).append(region)
    rows: list[dict[str, Any]] = [
        {
            "owner": owner,
            "regions": len(regions),
            "bytes": sum(region.size for region in regions),
            "addresses": sum(len(region.relocations) for region in regions),
            "written": any(r.written for r in regions) if manifest.relocatable else None,
        }
        for owner, regions in found.items()
    ]
    return sorted(rows, key=lambda row: -int(row["bytes"]))


_WRITTEN = {True: "by graphs", False: "not seen", None: "not known (--no-relocate)"}


def _print_foreign(rows: Iterable[dict[str, Any]]) -> None:
    print_table(
        "Memory of others", ("made by", "regions", "size", "addresses in it", "written"),
        (
            (row["owner"], row["regions"], decimal(row["bytes"]), row["addresses"],
             _WRITTEN[row["written"]])
            for row in rows
        ),
    )  # fmt: skip


def _words(graph: GraphEntry) -> int:
    # That a member's columns are complete is checked where it is used.
    return graph.columns["word"].count if "word" in graph.columns else 0


def print_differences(a: Path, b: Path, differences: list[Difference]) -> None:
    """The page of `foundryc diff`."""
    print_table(
        "Differences", ("what", "name", str(a), str(b)),
        ((d["what"], d["name"], d["a"] or "-", d["b"] or "-") for d in differences),
    )  # fmt: skip


def _codec(codec: int) -> str:
    return Codec(codec).name.lower() if codec in Codec._value2member_map_ else str(codec)


def _hexadecimal(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _hexadecimal(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hexadecimal(item) for item in value]
    return value
