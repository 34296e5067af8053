"""Bundles that earlier versions wrote (artifacts/) are still read, and still do the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foundryrt.bundle.reader import Bundle
from foundryrt.session import Session
from tests.attacks.servers import honest, server

FOLDER = Path(__file__).parents[2] / "artifacts"
INDEX = json.loads((FOLDER / "index.json").read_text())


def test_the_index_lists_every_bundle() -> None:
    assert sorted(INDEX) == sorted(path.name for path in FOLDER.glob("*.fdy"))


@pytest.mark.parametrize("name", sorted(INDEX))
def test_a_golden_bundle_is_read_whole(name: str) -> None:
    with Bundle.open(FOLDER / name) as bundle:
        bundle.verify(lambda stored: None)
        assert bundle.digest.hex() == INDEX[name]["digest"]
        assert bundle.manifest.target == INDEX[name]["target"]
        assert bundle.manifest.format_version == INDEX[name]["format_version"]


def test_the_golden_host_bundle_runs() -> None:
    check_steps(FOLDER / "v1-host-steps.fdy")


def test_it_runs_from_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with server((FOLDER / "v1-host-steps.fdy").read_bytes(), honest) as url:
        check_steps(f"{url}/steps.fdy")


def check_steps(path: Path | str) -> None:
    weight = np.arange(16).reshape(4, 4)
    total = np.zeros(4, np.int64)
    with Session.open(path) as session:
        assert session.file("note.txt") == b"golden"
        for batch, first in ((1, 3), (4, -7), (1, 11)):
            x = np.arange(first, first + 4 * batch).reshape(batch, 4)
            graph = session.graph("step", batch=batch)
            session.write(f"x{batch}", x)
            graph.launch()
            total += x.sum(0)
            np.testing.assert_array_equal(graph.read("y"), x @ weight + total)
        np.testing.assert_array_equal(session.read("total"), total)
