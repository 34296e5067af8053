"""Some graphs before the others: those that are needed first, and what is checked by then."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from foundryrt.bundle.addresses import Addresses
from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.backend import CudaBackend
from foundryrt.cuda.driver import driver
from foundryrt.cuda.graphs import Graphs
from foundryrt.errors import FoundryError, UsageError
from foundryrt.native import Materializer
from foundryrt.session import Session
from tests.fakecuda import bundle as counters
from tests.fakecuda.test_placement import relocated, save

SHARED = ("state",)
LAST, STEP = ("last", {}), ("step", {"by": 11})
CHAIN = 5
"""Nodes of a `step`; `last` has one."""


@pytest.fixture
def path(tmp_path, fake):
    return save(tmp_path / "counters.fdy", relocated(counters.capture()))


@pytest.fixture
def long(tmp_path, fake):
    """Eight steps before the last graph."""
    capture = relocated(counters.capture())
    step, _, last = capture.graphs
    steps = [replace(step, key={"by": i}) for i in range(8)]
    return save(tmp_path / "long.fdy", replace(capture, graphs=[*steps, last]))


def aside(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_a_bundle_can_be_used_before_its_other_graphs_are_made(path, fake):
    with Session.open(path) as first:
        first.wait()
        fake.hold(1)
        second = first.beside(path, lambda *_: SHARED, first=lambda _: [LAST])
        second.prepare([LAST])
        assert second.ready() == 1 and second.graph("last").ready()
        second.graph("last").launch()
        assert (second.read("result") == 1000).all()
        assert not second.graph("step", by=11).ready(soon=True)
        # Whoever launches one waits for it, and for no other.
        launched = aside(second.graph("step", by=11).launch)
        launched.join(0.2)
        assert launched.is_alive()
        fake.hold()
        launched.join(20)
        second.wait()
        assert second.ready() == 3
        assert (second.read("state") == counters.INITIAL + 11).all()
        second.close()
    assert fake.live == ""


def test_graphs_are_made_in_the_order_that_was_asked_for(long, fake):
    with Session.open(long) as first:
        first.wait()
        assert sorted(fake.instantiated) == [1] + [CHAIN] * 8
        fake.hold(0)
        second = first.beside(long, lambda *_: SHARED, first=lambda _: [LAST])
        made: list[int] = []
        until(lambda: made.extend(fake.instantiated) or len(made) == 2)
        assert sorted(made) == [1, CHAIN]
        fake.hold()
        second.wait()
        second.close()
    assert fake.live == ""


def test_a_graph_that_is_wanted_soon_is_made_next(long, fake):
    fake.hold(0)
    with Session.open(long) as session:
        last = session.graph("last")
        made: list[int] = []
        until(lambda: made.extend(fake.instantiated) or len(made) == 2)
        # All have been read once the reader has nothing left to do.
        session._opened.graphs._reader.join()
        assert not last.ready(soon=True)
        fake.hold()
        session.wait()
        assert made == [CHAIN] * 2 and 1 in fake.instantiated[:2]
        assert last.ready(soon=True)
    assert fake.live == ""


@pytest.fixture
def preferred_first(monkeypatch):
    """No graph is read before one is preferred."""
    preferred, read, prefer = threading.Event(), Graphs._read, Graphs.prefer

    def reads(graphs: Graphs, index: int) -> None:
        assert preferred.wait(20)
        read(graphs, index)

    def prefers(graphs: Graphs, index: int) -> None:
        prefer(graphs, index)
        preferred.set()

    monkeypatch.setattr(Graphs, "_read", reads)
    monkeypatch.setattr(Graphs, "prefer", prefers)


@pytest.mark.usefixtures("preferred_first")
def test_no_other_graph_is_begun_until_they_are_there(long, fake, monkeypatch):
    """They are made as soon as they are read, even if that is after all others."""
    made, resolve = [], Materializer.resolve

    def resolves(native: Materializer) -> None:
        resolve(native)
        until(lambda: native.ready)
        time.sleep(0.05)
        made.extend(fake.instantiated)

    monkeypatch.setattr(Materializer, "resolve", resolves)
    with Session.open(long) as session:
        session.prepare([LAST])
        assert made == [1]
        session.wait()
        assert session.ready() == 9
    assert fake.live == ""


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_the_driver_cannot_make_later_keeps_nobody_from_the_rest(path, fake):
    with Session.open(path) as first:
        fake.hold(1)
        with first.beside(path, lambda *_: SHARED, first=lambda _: [LAST]) as second:
            second.prepare([LAST])
            fake.hold(1, code=2)
            with pytest.raises(FoundryError, match=r"CUDA_ERROR_OUT_OF_MEMORY \(2\)"):
                second.wait()
            second.graph("last").launch()
            assert (second.read("result") == 1000).all()
            with pytest.raises(FoundryError, match="step by=11"):
                second.graph("step", by=11).launch()
            # The driver may have memory again.
            fake.hold()
            second.graph("step", by=11).launch()
            assert (second.read("state") == counters.INITIAL + 11).all()
    assert fake.live == ""


def _bad_kernel(capture):
    return replace(capture, kernels=(b"no cubin\0", b"FAKE more\0"))


def _bad_address(capture):
    words = capture.graphs[1].words.copy()
    words[10] = 12345  # of the first kernel
    moved = replace(capture.graphs[1], columns=capture.graphs[1].columns | {"parameters": words})
    return replace(capture, graphs=[capture.graphs[0], moved, capture.graphs[2]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_bad_kernel, r"cuLibraryLoadData \(add\)"),
        (_bad_address, "step by=25: what should be an address in region 0"),
    ],
)
def test_what_is_wrong_with_other_graphs_is_known_by_then(
    path, tmp_path, fake, monkeypatch, change, words
):
    monkeypatch.setattr(Addresses, "_check", lambda *_: None)
    other = save(tmp_path / "other.fdy", change(relocated(counters.capture())))
    with Session.open(path) as first:
        first.wait()
        fake.hold(0)  # both threads are kept at other graphs
        with first.beside(other, lambda *_: SHARED, first=lambda _: [LAST, STEP]) as second:
            said: list[str] = []
            prepared = aside(lambda: said.append(refused(lambda: second.prepare([LAST]))))
            prepared.join(20)
            fake.hold()
            assert said and re.search(words, said[0])
    assert fake.live == ""


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(FoundryError) as error:
        call()
    return str(error.value)


def test_damage_is_known_by_then(path, tmp_path, fake):
    data = bytearray(path.read_bytes())
    with Bundle.open(path) as bundle:
        template = bundle.manifest.graphs[0].template
        section = bundle.sections[bundle.manifest.templates[template].section]
    data[section.offset] ^= 1
    other = tmp_path / "other.fdy"
    other.write_bytes(data)
    with (
        Session.open(path) as first,
        first.beside(other, lambda *_: SHARED, first=lambda _: [LAST]) as second,
        pytest.raises(FoundryError, match="does not match its SHA-256"),
    ):
        second.prepare([LAST])
    assert fake.live == ""


def test_where_memory_is_short_all_graphs_are_made_first(path, fake):
    with Session.open(path) as first:
        fake.hold(1)
        with first.beside(path, lambda *_: SHARED, first=lambda _: [LAST]) as second:
            fake.device(memory=40 << 10)  # two graphs of 5 nodes may take 60 KB
            prepared = aside(lambda: second.prepare([LAST]))
            prepared.join(0.3)
            assert prepared.is_alive() and second.graph("last").ready()
            fake.hold()
            prepared.join(20)
            assert second.ready() == 3
    assert fake.live == ""


def test_graphs_that_are_not_there_are_refused(path, fake):
    with Session.open(path) as first:
        with pytest.raises(UsageError, match=r"no graph step\(by=7\)"):
            first.beside(path, lambda *_: SHARED, first=lambda _: [("step", {"by": 7})])
        with pytest.raises(UsageError, match=r"no graph step\(by=7\)"):
            first.prepare([("step", {"by": 7})])
    assert fake.live == ""


def test_any_failing_call_undoes_everything(path, fake):
    def use() -> None:
        with (
            Session.open(path) as first,
            first.beside(path, lambda *_: SHARED, first=lambda _: [STEP]) as second,
        ):
            second.prepare([STEP])
            second.write("state", np.zeros(counters.COUNT, np.int32))
            second.graph("step", by=11).launch()
            second.wait()

    assert len(fake.fail_each(use)) > 40


@pytest.mark.parametrize(("most", "begun"), [(0, 2), (-1, 9)])
def test_graphs_wait_for_weights_that_are_loaded_soon(long, fake, monkeypatch, most, begun):
    """What was begun is ended, and what a caller requires is made; a long load holds up none."""
    made: list[int] = []
    fill = CudaBackend.fill_regions

    def begun_before(backend: CudaBackend) -> None:
        until(lambda: made.extend(fake.instantiated) or len(made) == 2)
        fill(backend)

    def load(backend: CudaBackend) -> None:
        fake.hold()
        until(lambda: backend.ready() == begun)
        time.sleep(0.05)
        made.extend(fake.instantiated)
        assert len(made) == begun
        backend.launch(8)

    monkeypatch.setattr("foundryrt.cuda.backend._BRIEF", most)
    monkeypatch.setattr(CudaBackend, "fill_regions", begun_before)
    monkeypatch.setattr(CudaBackend, "load_weights", load)
    fake.hold(0)
    driver.cache_clear()  # as in a process whose driver is starting
    with Session.open(long) as session:
        assert (session.read("result") == 1000).all()
        session.wait()
    assert fake.live == ""


@pytest.mark.usefixtures("preferred_first")
@pytest.mark.parametrize(("order", "first"), [([], CHAIN), ([8], 1)])
def test_the_first_graph_is_made_beside_weights(long, fake, monkeypatch, order, first):
    """And no other, although none has been begun before."""
    made = []

    def load(backend: CudaBackend) -> None:
        until(backend.ready)
        time.sleep(0.05)
        made.extend(fake.instantiated)

    monkeypatch.setattr(CudaBackend, "_loads", True)
    monkeypatch.setattr(CudaBackend, "load_weights", load)
    CudaBackend(Bundle.open(long), order=order).close()
    assert made == [first]
    assert fake.live == ""
