"""Memory that sessions of the host share: nothing is lost when it begins, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from foundryc.recorder import Recorder
from foundryrt.session import Session

COUNT = 1 << 22

FORKED = """
import os, sys
from foundryrt.session import Session
with Session.open(sys.argv[1]) as session:
    if not (child := os.fork()):
        session.tensor("cache")[:] = 7
        os._exit(0)
    os.waitpid(child, 0)
    print(session.tensor("cache").max())
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adds one to a cache of 16 MB, zeros at first."""
    path = tmp_path_factory.mktemp("sharing") / "adds.fdy"
    with Recorder("host", workload="demo", settings={}) as recorder:
        cache = recorder.register("cache", torch.zeros(COUNT), role="state")
        with recorder.graph("add"):
            cache.add_(1)
        recorder.save(path)
    return path


def test_a_forked_child_has_memory_of_its_own(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(bundle)], timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "0.0\n"), done.stderr


def test_no_launch_is_lost_while_memory_becomes_shared(bundle: Path) -> None:
    for _ in range(5):
        with Session.open(bundle) as session:
            graph, launches, ended = session.graph("add"), 0, threading.Event()
            graph.launch()

            def launching(graph=graph, ended=ended) -> None:  # type: ignore[no-untyped-def]
                nonlocal launches
                while not ended.is_set():
                    graph.launch()
                    launches += 1

            thread = threading.Thread(target=launching)
            thread.start()
            try:
                with Session.open(bundle, place={"state": session}) as other:
                    ended.set()
                    thread.join()
                    cache = other.tensor("cache")
                    assert cache.min() == cache.max() == launches + 1
                    other.graph("add").launch()
                    assert session.tensor("cache")[-1] == launches + 2
            finally:
                ended.set()
                thread.join()


def _shared_kilobytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssShmem"):
            return int(line.split()[1])
    raise AssertionError("no RssShmem")


def test_zeros_that_are_shared_cost_nothing(bundle: Path) -> None:
    before = _shared_kilobytes()
    with (
        Session.open(bundle) as session,
        Session.open(bundle, place={"state": session}) as other,
    ):
        assert _shared_kilobytes() < before + COUNT * 4 // 1024 // 4
        other.tensor("cache")[-1] = 5
        assert session.tensor("cache")[-1] == 5
