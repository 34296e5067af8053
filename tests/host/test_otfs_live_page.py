"""The live page in a real browser: plots are drawn, values change, and the end is shown."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.host.otfs_link import LINK, save_bundle
from tests.host.otfs_live import LiveRun
from tests.host.test_otfs_live import ENDLESS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
PLOTS = ("constellation", "channel", "spectrum", "ber", "snr", "latency")
# How many pixels of a plot have a colour that neither text, grid nor frame has.
COLOURED = """id => {
  const canvas = document.getElementById(id);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const [r, g, b, a] = pixels.slice(i, i + 4);
    count += a > 60 && Math.max(r, g, b) - Math.min(r, g, b) > 60;
  }
  return count;
}"""
FRAMES = "() => Number(document.querySelector('#figures b').textContent.replaceAll(',', ''))"


def until(page: Any, condition: str) -> None:
    """Wait until it holds. The page's own policy forbids what `wait_for_function` does."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(100)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("otfs") / "otfs.fdy")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_run_is_seen(browser: Any, bundle: Path, scheme: str) -> None:
    faults: list[str] = []
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1400, "height": 1000})
    page.on("console", lambda said: said.type == "error" and faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    with LiveRun(bundle, *ENDLESS) as run:
        page.goto(run.url)
        for plot in PLOTS:
            until(page, f"({COLOURED})('{plot}') > 40")
        before = page.evaluate(FRAMES)
        until(page, f"({FRAMES})() > {before}")
        assert page.locator("#status").inner_text().startswith("live 0:")
        assert page.locator("#frames tr").count() == 11
        assert page.locator("#antenna").is_hidden()
        notes = " ".join(page.locator(".note").all_inner_texts())
        for words in ("EVM", "reference", "deadline 2.13", "p99.9", "after the equalizer"):
            assert words in notes
        box = page.locator("#spectrum").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        until(page, "document.getElementById('tip')?.textContent.includes('MHz')")
        wide = "document.documentElement.scrollWidth > window.innerWidth"
        assert not page.evaluate(wide)
        if folder := os.environ.get("FOUNDRY_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/live-{scheme}.png", full_page=True)
        page.set_viewport_size({"width": 420, "height": 900})
        assert not page.evaluate(wide)
        report = run.interrupt()
        until(page, "document.getElementById('status').innerText.startsWith('ended')")
        assert page.evaluate(FRAMES) == report["frames"]
    for plot in PLOTS:
        assert page.evaluate(COLOURED, plot) > 40
    assert faults == []
    page.close()


def test_an_antenna_is_chosen(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    picture = "document.getElementById('channel').toDataURL()"
    with LiveRun(save_bundle(tmp_path / "four.fdy", replace(LINK, antennas=4)), *ENDLESS) as run:
        page.goto(run.url)
        until(page, "document.querySelectorAll('#frames tr').length == 11")
        choice = page.locator("#antenna")
        choice.select_option("antenna 3 of 4")
        run.interrupt()
        until(page, "document.getElementById('status').innerText.startsWith('ended')")
    assert choice.input_value() == "2"
    assert "σ², antenna 3" in page.locator("#figures").inner_text()
    assert "antenna 4" in page.locator("article:has(#spectrum) .note").inner_text()
    cells = page.locator("#frames tr").nth(1).locator("td").all_inner_texts()
    assert [len(cell.split("\n")) for cell in cells] == [1] * 5 + [4] * 7 + [1]
    assert cells[5] == "1\n2\n3\n4"
    before = page.evaluate(picture)
    choice.select_option("antenna 1 of 4")
    assert page.evaluate(picture) != before
    if folder := os.environ.get("FOUNDRY_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/live-antennas.png", full_page=True)
    page.close()


def test_a_server_that_is_gone_is_said(browser: Any, bundle: Path) -> None:
    page = browser.new_page()
    with LiveRun(bundle, *ENDLESS) as run:
        page.goto(run.url)
        until(page, "document.getElementById('status').innerText.startsWith('live')")
    until(page, "document.getElementById('status').innerText == 'connection lost'")
    page.close()
