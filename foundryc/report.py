"""What `foundryc` says about a bundle: a page for people, JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from foundryc.difference import Difference, graph_title
from foundryrt.bundle.layout import Codec
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import SectionKind


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
        "arena_bytes": manifest.requirements.memory,
        "weight_bytes": sum(source.length for source in manifest.weights.sources),
        "bundle_bytes": bundle.path.stat().st_size,
        "digest": bundle.digest.hex(),
    }


def print_summary(path: Path, figures: dict[str, Any]) -> None:
    """One paragraph after a capture."""
    came = {"hit": ", taken from the cache", "captured": ", captured here"}
    print(
        f"{path}: {figures['graphs']} graphs, {figures['nodes']} nodes in "
        f"{figures['templates']} templates, {decimal(figures['bundle_bytes'])} "
        f"(arena {decimal(figures['arena_bytes'])}), target {figures['target']}"
        f"{came.get(figures.get('cache', ''), '')}"
    )


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
    console = Console()
    manifest = bundle.manifest
    requirements = manifest.requirements
    console.print(f"[bold]{bundle.path}[/bold], format {manifest.format_version}", highlight=False)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("workload", manifest.workload.name)
    for name, value in manifest.workload.settings.items():
        facts.add_row("", f"{name} = {value!r}")
    facts.add_row("target", manifest.target)
    needs = [f"{decimal(requirements.memory)} arena"]
    needs += [requirements.architecture] if requirements.architecture else []
    needs += [f"driver {requirements.driver} or later"] if requirements.driver else []
    needs += [f"torch {requirements.torch}"] if requirements.torch else []
    facts.add_row("needs", ", ".join(needs))
    facts.add_row("made by", ", ".join(f"{k} {v}" for k, v in manifest.producer.items()))
    facts.add_row("digest", bundle.digest.hex())
    for entry in bundle.signatures:
        facts.add_row("signed by", f"{entry.key_id[:16]} (checked by verify --trust)")
    console.print(facts, markup=False)
    members = Counter(graph.template for graph in manifest.graphs)
    _print(
        console, "Graphs", ("graph", "template", "nodes", "edges", "members", "own words"),
        (
            (graph_title(graph), graph.template, manifest.templates[graph.template].nodes,
             manifest.templates[graph.template].edges, members[graph.template],
             graph.columns["word"].count)
            for graph in manifest.graphs
        ),
    )  # fmt: skip
    _print(
        console, "Regions", ("region", "base", "size", "initial bytes", "tensors"),
        (
            (region.name, f"{region.base:#x}", decimal(region.size),
             "zero" if region.section == -1 else decimal(bundle.sections[region.section].raw),
             sum(tensor.region == index for tensor in manifest.tensors))
            for index, region in enumerate(manifest.regions)
        ),
    )  # fmt: skip
    if manifest.kernels:
        callers = Counter(function.kernel for function in manifest.functions)
        _print(
            console, "Kernels", ("sha256", "size", "functions"),
            (
                (kernel.sha256.hex()[:16], decimal(bundle.sections[kernel.section].raw),
                 callers[index])
                for index, kernel in enumerate(manifest.kernels)
            ),
        )  # fmt: skip
    if manifest.weights.files:
        _print(
            console, "Weights", ("file", "size", "tensors used"),
            (
                (file.name, decimal(file.size),
                 sum(source.file == index for source in manifest.weights.sources))
                for index, file in enumerate(manifest.weights.files)
            ),
        )  # fmt: skip
    _print(
        console, "Sections", ("section", "kind", "stored", "raw", "codec"),
        (
            (section.name,
             SectionKind(section.kind).name.lower() if section.known else f"{section.kind}",
             decimal(section.stored), decimal(section.raw), _codec(section.codec))
            for section in bundle.sections
        ),
    )  # fmt: skip


def print_differences(a: Path, b: Path, differences: list[Difference]) -> None:
    """The page of `foundryc diff`."""
    _print(
        Console(), "Differences", ("what", "name", str(a), str(b)),
        ((d["what"], d["name"], d["a"] or "-", d["b"] or "-") for d in differences),
    )  # fmt: skip


def _print(
    console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]
) -> None:
    # Names are folded, not cut: their ends tell them apart.
    heads = (Column(name, overflow="fold") for name in columns)
    table = Table(*heads, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_plain(value) for value in row))
    console.print(table)


def _plain(value: object) -> str:
    """Text that rich does not take for markup: names may hold brackets."""
    return str(value).replace("[", "\\[")


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
