"""The HTML page of bundles: whole, escaped, without network or script."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from foundryc.page.bundle import bundle_page
from foundryc.page.html import element, table, text
from foundryc.page.topology import topology
from foundryrt.bundle.reader import Bundle
from tests.attacks.samples import parts, with_manifest, with_template

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
VOID = {"meta", "path", "rect", "link", "br"}


class Balanced(HTMLParser):
    """Fails where a tag is not closed, or the page would fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "img", "object")
        assert not {name for name, _ in attrs} & {"src", "onclick", "onload"}
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def checked(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser


@pytest.mark.parametrize("name", sorted(path.name for path in ARTIFACTS.glob("*.fdy")))
def test_a_page_of_every_golden_bundle(name: str) -> None:
    with Bundle.open(ARTIFACTS / name) as bundle:
        page = bundle_page([bundle])
        assert checked(page).seen.count("svg") == 2
        for graph in bundle.manifest.graphs:
            assert str(text(graph.name)) in page
    assert "http://" not in page and "https://" not in page


def test_names_are_no_markup(tmp_path: Path) -> None:
    odd = "<b>&amp;[/x]"
    workload = msgspec.structs.replace(parts().manifest.workload, name=odd)
    path = with_manifest(workload=workload, producer={odd: odd}).write(tmp_path / "a.fdy")
    with Bundle.open(path) as bundle:
        page = bundle_page([bundle, bundle])
    checked(page)
    assert "&lt;b&gt;&amp;amp;[/x]" in page and "<b>&" not in page
    assert str(element("p", "\x1b[2J\u202e")) == r"<p>\x1b[2J\u202e</p>"


def test_numbers_stand_right() -> None:
    assert table(("name", "size#"), [("a", 3)]).count('class="number"') == 2


def test_nodes_that_run_together_stand_below_each_other(tmp_path: Path) -> None:
    """One node before two others: two of them share a depth."""
    changed = with_template(edge_from=[0, 0], edge_to=[1, 2])
    with Bundle.open(changed.write(tmp_path / "a.fdy")) as bundle:
        drawn = str(topology(bundle, 0))
    assert "M0 0h7" in drawn and "M10 0h7" in drawn and "M10 10h7" in drawn
    assert "gemm × 1" in drawn and "norm × 1" in drawn and "memcpy × 1" in drawn


@pytest.mark.parametrize(("name", "page"), [("a.fdy", "a.html"), ("q-0.6b", "q-0.6b.html")])
def test_the_command(tmp_path: Path, name: str, page: str) -> None:
    bundle = parts().write(tmp_path / name)
    main = [sys.executable, "-c", "from foundryc.cli import main; main()", "report"]
    done = subprocess.run([*main, bundle], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / page}\n"), done.stderr
    checked((tmp_path / page).read_text())
    broken = subprocess.run(
        [*main, bundle, "-o", tmp_path / "no" / "x.html"], capture_output=True, text=True
    )
    assert broken.returncode == 2 and broken.stdout == ""
    assert broken.stderr.endswith(f"the folder {tmp_path / 'no'} does not exist\n")
