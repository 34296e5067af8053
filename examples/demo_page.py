"""The page of demo.py, made of the pieces of foundryc.page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from foundryc.page.bundle import bundle_part
from foundryc.page.html import (
    Markup,
    card,
    drawing,
    element,
    figures,
    join,
    lines,
    page,
    table,
    text,
)
from foundryrt.bundle.reader import Bundle

DOCS = (
    ("README.md", "what this is"),
    ("docs/structure.md", "where things are, and how a capture and a start go"),
    ("docs/format.md", "the file"),
    ("docs/materialize.md", "how graphs become launchable on a GPU"),
    ("docs/parse.md", "PARSE"),
    ("docs/otfs.md", "the receiver"),
    ("examples/README.md", "examples"),
)


def demo_page(
    bundles: Mapping[str, Bundle],
    commands: Mapping[str, str],
    captures: Mapping[str, float],
    starts: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Any]],
    draft: str,
    problem: str,
    machine: str,
) -> str:
    """Everything by the bundle's name; `draft` is what arith's draft model wrote for `problem`."""
    title = "Captured once, started from a file"
    return page(
        f"Foundry: {title}",
        element("h1", title),
        element("p", f"Both workloads on this machine's CPU ({machine}), the host target. "
                "The same commands on a machine with a GPU record its CUDA graphs.", of="faint"),
        element("h2", "Capture and start"),
        timings(captures, starts),
        element("h2", "A Zak-OTFS receiver"),
        receiver(results["otfs"], starts["otfs"]["symbols"]),
        element("h2", "PARSE: the draft model writes, the target judges"),
        answers(results["parse"], results["arith"], draft, problem, bundles["arith"]),
        *(
            join([bundle_part(bundle), card("Made and run by", lines(commands[name]))])
            for name, bundle in bundles.items()
        ),
        element("h2", "Further"),
        card("In the repository", element("ul", *(
            element("li", Markup(f'<a href="../{path}">{text(path)}</a>: '), about)
            for path, about in DOCS
        ))),
    )  # fmt: skip


def timings(captures: Mapping[str, float], starts: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Seconds by bundle: bars to one scale, and the numbers."""
    longest = max(captures.values())
    rows = []
    for name, capture in captures.items():
        begun = starts[name]["open"] + starts[name]["first"]
        bars = drawing(
            300, 22, f"{name}: {capture:.1f} and {begun:.1f} seconds",
            *(
                Markup(f'<rect y="{y}" width="{max(300 * value / longest, 1.5):.1f}" height="9" '
                       f'rx="2" class="c{colour}"/>')
                for y, value, colour in ((0, capture, 1), (11, begun, 0))
            ),
        )  # fmt: skip
        later = min(starts[name]["second"], starts[name]["third"])
        rows.append((name, bars, *(f"{value:.2f} s" for value in (
            capture, starts[name]["open"], starts[name]["first"], later))))  # fmt: skip
    columns = ("", "capture over open and first launch", "capture#", "open#", "first launch#",
               "later launch#")  # fmt: skip
    note = (
        "Measured in this run. A capture is the whole command. Opening and launching are timed in"
        " a fresh process, from Session.open on; on the CPU the first launch imports torch, which"
        " replays the operators. On a GPU no torch is imported."
    )
    return card("Seconds", table(columns, rows), element("p", note, of="faint"))


def receiver(result: Mapping[str, Any], symbols: Sequence[Sequence[float]]) -> Markup:
    """Figures of the run, and the equalized symbols of its kind of frame."""
    reach = 1.5
    dots = "".join(f"M{x:g} {-y:g}h0" for x, y in symbols if max(abs(x), abs(y)) < reach)
    picture = Markup(
        f'<svg viewBox="{-reach} {-reach} {2 * reach} {2 * reach}" width="420" role="img" '
        f'aria-label="constellation of {len(symbols)} symbols">'
        f'<path d="M{-reach} 0H{reach}M0 {-reach}V{reach}" stroke="var(--line)" '
        f'stroke-width=".008"/><path d="{dots}" stroke="var(--accent)" stroke-width=".022" '
        'stroke-linecap="round" opacity=".55"/></svg>'
    )
    latency = result["latency_ms"]
    rows = [
        ("grid, delay x Doppler bins", result["grid"]),
        ("source", result["source"]),
        ("equalizer", f"conjugate gradients, K = {result['cg_iterations']}"),
        ("bit error rate", f"{result['ber']:.2e} over {result['ber_frames']} frames"),
        ("median time of a frame", f"{latency['p50']:.0f} ms on this CPU"),
        ("a frame on the air lasts", f"{result['deadline_ms']:.3f} ms; a GPU keeps up with it"),
    ]
    return element(
        "div",
        card(f"{result['modulation']}-QAM symbols after the equalizer", picture),
        card("Received", table(("", ""), rows)),
        of="pair",
    )


def answers(
    plain: Mapping[str, Any], judged: Mapping[str, Any], draft: str, problem: str, bundle: Bundle
) -> Markup:
    """The trained pair's draft with its verdicts; then what SmolLM2 answered."""
    tokenizer = Tokenizer.from_str(bundle.file("tokenizer.json").decode())
    return join([
        figures([
            ("drafted tokens", judged["drafted"]),
            ("kept", judged["accepted"]),
            ("prefixes judged in one pass", sum(map(len, judged["verdicts"]))),
            ("target passes after that", judged["advances"]),
        ]),
        element(
            "p", "The problem: ", element("code", problem), ". The draft is cut where a line ends;"
            " one pass of the target judges every prefix. Struck through: what was not kept.",
        ),
        element(
            "div",
            card("The draft, and P(yes) of the prefix up to there",
                 drafted(draft, judged, tokenizer)),
            card("The answer: what was kept, and how the target went on", lines(judged["text"])),
            of="pair",
        ),
        card(
            "SmolLM2-135M, which drafts for itself: "
            f"{plain['accepted']} of {plain['drafted']} drafted tokens kept",
            lines(plain["text"]),
        ),
    ])  # fmt: skip


def drafted(draft: str, judged: Mapping[str, Any], tokenizer: Tokenizer) -> Markup:
    """The text of each piece between two cuts, with the verdict on the prefix that ends there."""
    ends = [end for _, end in tokenizer.encode(draft, add_special_tokens=False).offsets]
    pieces, begin = [], 0
    for cut, verdict in judged["verdicts"][0]:
        end = ends[cut - 1] if cut <= len(ends) else len(draft)
        kept = cut <= judged["accepted"]
        colour, line = ("good", "none") if kept else ("bad", "line-through")
        style = (
            f"text-decoration: {line}; border-left: 3px solid var(--{colour});"
            " padding: 1px 10px; margin: 3px 0"
        )
        mark = Markup(f'<span style="color: var(--{colour}); float: right">{verdict:.3f}</span>')
        pieces.append(Markup(f'<pre style="{style}">{mark}{text(draft[begin:end].strip())}</pre>'))
        begin = end
    return join(pieces)
