"""The pieces of a page. Everything that is not `Markup` already is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from foundryrt.printable import printable

COLOURS = 8
"""Classes c0 to c7 of the style sheet; c8 is for all the rest."""

STYLE = """
:root { color-scheme: light dark;
  --ground: #f6f7f9; --card: #fff; --text: #1b2330; --faint: #647084; --line: #dde2ea;
  --accent: #2f6fde; --good: #1e8e5a; --bad: #c2453b; --track: #e8ecf2;
  --c0: #3b74d8; --c1: #e08a1e; --c2: #2a9d72; --c3: #c04d8c; --c4: #7a5bd0; --c5: #c9b21f;
  --c6: #2aa3b8; --c7: #b5583a; --c8: #a9b2c0; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #11151c; --card: #1a202b; --text: #e6eaf1; --faint: #93a0b4; --line: #2c3544;
  --accent: #76a7ff; --good: #52c995; --bad: #f07f74; --track: #262e3b;
  --c0: #6f9ff0; --c1: #f0ab52; --c2: #52c39a; --c3: #e07bb2; --c4: #a48cf0; --c5: #e0cc4e;
  --c6: #59c6da; --c7: #dd8363; --c8: #5b677a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 21px; margin: 44px 0 10px; overflow-wrap: anywhere; }
h3 { font-size: 15px; margin: 0 0 10px; }
p { margin: 6px 0 12px; max-width: 78ch; }
a { color: var(--accent); }
.faint { color: var(--faint); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px; margin: 14px 0; overflow-x: auto; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 10px; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.figures b { display: block; font-size: 21px; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 14px; }
.pair > .card { margin: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--faint); font-size: 13px; }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .faint { fill: var(--faint); }
.key { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 12px; font-size: 13px; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
""" + "".join(
    f".c{n} {{ fill: var(--c{n}); }} i.c{n} {{ background: var(--c{n}); }}\n"
    for n in range(COLOURS + 1)
)


class Markup(str):
    """Text that is HTML."""


def text(value: object) -> Markup:
    """Any value, escaped for a page and for its reader; markup as it is."""
    return value if isinstance(value, Markup) else Markup(escape(printable(value)))


def lines(value: str) -> Markup:
    """A text of several lines, as it is."""
    return element("pre", join(map(text, value.split("\n")), "\n"))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """All parts in a row."""
    return Markup(between.join(text(part) for part in parts))


def element(name: str, *parts: object, of: str = "") -> Markup:
    """`<name class="of">` with its parts."""
    attribute = f' class="{of}"' if of else ""
    return Markup(f"<{name}{attribute}>{join(parts)}</{name}>")


def card(title: object, *parts: object) -> Markup:
    """A framed part of the page with a heading."""
    return element("div", element("h3", title), *parts, of="card")


def figures(values: Iterable[tuple[str, object]]) -> Markup:
    """Large numbers, each with what it counts."""
    return element(
        "div",
        *(element("div", element("b", value), element("span", name, of="faint"))
          for name, value in values),
        of="figures",
    )  # fmt: skip


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table; a column whose name ends in `#` has numbers."""
    classes = ["number" if name.endswith("#") else "" for name in columns]
    head = (element("th", n.rstrip("#"), of=c) for n, c in zip(columns, classes, strict=True))
    body = (
        element("tr", *(element("td", v, of=c) for v, c in zip(row, classes, strict=True)))
        for row in rows
    )
    return element("table", element("tr", *head), *body)


def key(entries: Iterable[tuple[int, str]]) -> Markup:
    """Which colour, by its number, stands for what."""
    return element(
        "div", *(element("span", element("i", of=f"c{n}"), name) for n, name in entries), of="key"
    )


def drawing(width: float, height: float, label: str, *parts: object) -> Markup:
    """An SVG that scales with the page; `label` is read to those who do not see it."""
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'aria-label="{text(label)}">{join(parts)}</svg>'
    )


def page(title: str, *parts: object) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{join(parts, chr(10))}</main></body></html>\n"
    )
