"""What a bundle holds, as a part of a page."""

from __future__ import annotations

from collections import Counter

from foundryc.difference import graph_title
from foundryc.page.arena import arena
from foundryc.page.html import Markup, card, element, figures, join, page, table
from foundryc.page.topology import topology
from foundryc.report import summary
from foundryrt.bundle.reader import Bundle
from foundryrt.printable import size

_MOST_ROWS = 40


def bundle_page(bundles: list[Bundle]) -> str:
    """The page of `foundryc report`."""
    names = ", ".join(bundle.path.name for bundle in bundles)
    head = [element("h1", f"{len(bundles)} bundles")] if len(bundles) > 1 else []
    return page(names, *head, *map(bundle_part, bundles))


def bundle_part(bundle: Bundle) -> Markup:
    """Figures, topology, memory, graphs, needs."""
    manifest = bundle.manifest
    counts = summary(bundle)
    called = "kernels" if manifest.target == "cuda" else "operators"
    weights = counts["weight_bytes"] or sum(
        region.size for region in manifest.regions if region.name == "weights"
    )
    shown = max(
        manifest.graphs, key=lambda graph: manifest.templates[graph.template].nodes, default=None
    )
    parts = [
        element("h2", bundle.path.name),
        element(
            "p", f"Workload {manifest.workload.name}, target {manifest.target}. ",
            ", ".join(f"{name} {value}" for name, value in manifest.producer.items()), of="faint",
        ),
        figures([
            ("graphs", counts["graphs"]),
            ("nodes", f"{counts['nodes']:,}"),
            ("templates", counts["templates"]),
            (called, f"{len(manifest.functions):,}"),
            ("in the file", size(counts["bundle_bytes"])),
            ("arena", size(counts["arena_bytes"])),
            *([("ranks", counts["ranks"])] if manifest.ranks else []),
            ("weights", size(weights)),
        ]),
    ]  # fmt: skip
    if shown is not None:
        title = f"Topology of {graph_title(shown)}: every square a node, in the order it runs"
        parts.append(card(title, topology(bundle, shown.template)))
    parts.append(card("Memory: the arena's regions and the tensors in them", arena(bundle)))
    members = Counter(graph.template for graph in manifest.graphs)
    rows = [
        (graph_title(graph), manifest.templates[graph.template].nodes,
         manifest.templates[graph.template].edges, graph.template, members[graph.template])
        for graph in manifest.graphs
    ]  # fmt: skip
    columns = ("graph", "nodes#", "edges#", "template#", "graphs of it#")
    more = len(rows) - _MOST_ROWS
    note = element("p", f"and {more} more", of="faint") if more > 0 else ""
    parts.append(card("Graphs", table(columns, rows[:_MOST_ROWS]), note))
    if manifest.weights.files:
        files = [(file.name, size(file.size)) for file in manifest.weights.files]
        parts.append(card("Weights are read from", table(("file", "size#"), files)))
    return join(parts)
