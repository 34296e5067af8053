"""Fixtures that test files share: a tiny bundle, and a process that stands by for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from standing_by import standing_by


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama, captured, which no test changes; a file about others has its own fixture."""
    from parse_command import tiny_bundle  # which imports transformers

    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Path]:
    """The socket of a process that stands by and expects the bundle."""
    path = tmp_path_factory.mktemp("standby") / "s.sock"
    with standing_by(path, bundle):
        yield path
