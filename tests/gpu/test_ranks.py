"""One bundle on several ranks, which share a GPU if need be: exchanges, a rank's death."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from processes import devices, finish, start

HERE = Path(__file__).parent
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2}


@pytest.fixture(scope="module", params=[2, 4])
def exchanges(request, tmp_path_factory):
    """A bundle of exchanges."""
    world, path = request.param, tmp_path_factory.mktemp("exchanges") / "exchanges.fdy"
    finish(start(HERE / "capture_ranks.py", path, world))
    return world, path


def test_exchanges_give_what_all_ranks_have(exchanges) -> None:
    world, path = exchanges
    report = json.loads(finish(start(HERE / "replay_ranks.py", path, devices(world), 0)))
    assert report["steps"] == 3 and len(report["errors"]) == 14
    for title, error in report["errors"].items():
        assert error < LIMITS[title.split()[1]], title


def test_a_killed_rank_ends_all(exchanges) -> None:
    world, path = exchanges
    killed = world - 1
    report = json.loads(finish(start(HERE / "replay_ranks.py", path, devices(world), killed)))
    assert f"rank {killed}" in report["lost"] and "SIGKILL" in report["lost"]
    assert report["seconds"] < 10
