"""Session.open on the stand-in driver: order, readiness, weights, undoing."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from foundryrt import native, parallel
from foundryrt.bundle.reader import Bundle
from foundryrt.cuda import graphs
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from foundryrt.undo import Undo
from tests.fakecuda import bundle as counters

FIRST = ("step", {"by": 25})


@pytest.fixture
def path(tmp_path, fake):
    return counters.write(tmp_path / "counters.fdy")


def test_bundles_of_unlike_bases_are_open_together(path, tmp_path, monkeypatch):
    for region in ("STATE", "IO"):
        monkeypatch.setattr(counters, region, getattr(counters, region) + (2 << 40))
    other = counters.write(tmp_path / "other.fdy")
    with Session.open(path) as a, Session.open(other) as b:
        b.graph("step", by=25).launch()
        a.graph("step", by=11).launch()
        for session, raised in ((a, 11), (b, 25)):
            np.testing.assert_array_equal(session.read("state"), counters.INITIAL + raised)


def test_cuda_s_default_stream_is_a_stream(path, monkeypatch):
    """Its handle is 0: on the session's own, work queued there would not be waited for."""
    with Session.open(path) as session:
        queues: list[int] = []
        calls = session._opened.device.cuda._calls
        monkeypatch.setitem(calls, "cuGraphLaunch", lambda _, queue: queues.append(queue) or 0)
        for stream in (None, 0, 7):
            session.graph("step", by=11).launch(stream)
        assert queues == [session._opened.stream, 0, 7]


def test_the_first_graph_needs_no_other_ones_binary(tmp_path, fake, monkeypatch):
    # `last` alone needs no binary but the second: with the first one broken it can be launched.
    path = counters.write(tmp_path / "c.fdy", cubins=(b"no cubin\0", b"FAKE more\0"))
    with Session.open(path, first=("last", {})) as session:
        assert session.ready("last") == 1
        session.graph("last").launch()
        assert (session.read("result") == 1000).all()
        with pytest.raises(FoundryError, match=r"cuLibraryLoadData \(add\)"):
            session.wait()
        assert session.ready("step", by=11) == 0
    assert fake.live == ""


def test_readiness_is_counted_and_reported(path, fake):
    seen = []
    with Session.open(path, first=FIRST) as session:
        assert session.ready("step", by=25) == 1
        session.wait(lambda ready, total: seen.append((ready, total)))
        assert session.ready() == 3
        assert seen[-1] == (3, 3) and seen == sorted(set(seen))
        with pytest.raises(UsageError, match="no graph"):
            session.ready("step", by=7)
    assert fake.live == ""


def test_a_graph_asked_for_meanwhile_jumps_the_queue(path, fake, monkeypatch):
    # The reader stops before the second graph until the third has been launched.
    original = graphs.Graphs._declare
    launched = []

    def slow(self, index):
        if index == 0 and not launched:
            import time

            self._lock.release()
            while not launched:
                time.sleep(0.01)
            self._lock.acquire()
        original(self, index)

    monkeypatch.setattr(graphs.Graphs, "_declare", slow)
    with Session.open(path, first=FIRST) as session:
        session.graph("last").launch()
        launched.append(True)
        assert (session.read("result") == 1000).all()
        session.wait()
    assert fake.live == ""


def test_a_scalar_keeps_its_shape(path, fake):
    with Session.open(path) as session:
        tensor = session.tensor("state")
        assert type(tensor)(
            tensor.schema.__class__(
                name="s", region=0, offset=0, dtype="int32", shape=(), strides=(), role="state"
            ),
            tensor.address, tensor.device, tensor.stream,
        ).read().shape == ()  # fmt: skip


def test_any_failing_call_undoes_everything(path, fake):
    def use() -> None:
        with Session.open(path, first=FIRST) as session:
            session.wait()
            session.write("state", np.zeros(counters.COUNT, np.int32))
            session.graph("last").launch()
            session.read("result")

    said = fake.fail_each(use)
    assert len(said) > 40
    assert all("CUDA_ERROR_OUT_OF_MEMORY (2)" in error for error in said)
    use()
    assert fake.live == ""


def run(script: str, **environment: str) -> None:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True,
        cwd=Path(__file__).parents[2], env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_first_launch_needs_no_numpy(path, fake):
    run(f"""
import sys
from foundryrt.session import Session
with Session.open({str(path)!r}, first=("step", {{"by": 25}})) as session:
    session.tensor("state").write_bytes(bytes({4 * counters.COUNT}))
    session.graph("step", by=25).launch()
    result = session.tensor("result")
    assert result.read_bytes() == (25).to_bytes(4, "little") * {counters.COUNT}
    assert result.__cuda_array_interface__["typestr"] == "<i4"
    result.__dlpack__()
    session.wait()
    assert "numpy" not in sys.modules
    assert (session.read("result") == 25).all()
""")


def test_a_context_begun_early_is_the_sessions_and_stays(path, fake):
    run(f"""
from foundryrt.cuda import early
early.begin()
import threading
for thread in threading.enumerate():
    if thread.daemon:
        thread.join()
import ctypes, os
driver, text = ctypes.CDLL(os.environ["FOUNDRY_LIBCUDA"]), ctypes.create_string_buffer(100)
from foundryrt.session import Session
from foundryrt.timeline import steps
assert "driver started" in steps()
for _ in range(2):
    driver.fakecuda_live(text, len(text))
    assert text.value == b"context 1 ", text.value
    with Session.open({str(path)!r}) as session:
        session.graph("last").launch()
        assert session.tensor("result").read_bytes()[:4] == (1000).to_bytes(4, "little")
""")


def test_no_driver_is_said_by_the_session_not_by_its_early_start(path, fake):
    run(
        f"""
from foundryrt.cuda import early
early.begin()
from foundryrt.session import Session
try:
    Session.open({str(path)!r})
except Exception as error:
    assert str(error).startswith("no CUDA driver: ")
else:
    raise SystemExit("opened")
""",
        FOUNDRY_LIBCUDA="/nowhere/libcuda.so",
    )


def uses(session: Session) -> list[Callable[[], object]]:
    return [
        session.wait,
        lambda: session.write("state", np.zeros(counters.COUNT, np.int32)),
        session.graph("step", by=11).launch,
        session.graph("last").launch,
        lambda: session.read("result"),
        lambda: session.tensor("result").__dlpack__(),
        session.load_weights,
        session.synchronize,
        lambda: session.graph("last").pipeline(("state",), ("result",)).close(),
        session.close,
    ]


def test_any_thread_may_use_a_session(path, fake):
    with ThreadPoolExecutor(1) as old:
        for _ in range(2):
            # The old thread must not take an earlier session's context for this one's.
            for step in uses(Session.open(path)):
                with ThreadPoolExecutor(1) as new:
                    new.submit(step).result()
                old.submit(step).result()
    assert fake.live == ""


def test_bytes_are_read_and_written_as_they_lie(path, fake):
    with Session.open(path) as session:
        state = session.tensor("state")
        with pytest.raises(UsageError, match="state has 64 bytes, not 63"):
            state.write_bytes(bytes(63))
        state.write_bytes(np.arange(counters.COUNT, dtype=np.int32).data)
        assert (state.read() == np.arange(counters.COUNT)).all()
        assert state.read_bytes() == state.read().tobytes()
    assert fake.live == ""


def test_after_an_interrupt_amid_reading_nothing_half_read_is_built_on(path, fake, monkeypatch):
    def interrupt(self, kernels):
        raise KeyboardInterrupt

    monkeypatch.setattr(graphs.Graphs, "_declare_all", lambda self: None)
    monkeypatch.setattr(graphs.Graphs, "_give_kernels", interrupt)
    with Session.open(path) as session:
        with pytest.raises(KeyboardInterrupt):
            session.graph("last").launch()
        monkeypatch.undo()
        launches = [session.graph(name, **key).launch for name, key in session.graphs]
        for use in (*launches, session.wait):
            with pytest.raises(FoundryError, match="interrupted"):
                use()
    assert fake.live == ""


def test_a_graph_that_is_asked_for_is_read_next(path, fake, monkeypatch):
    read, begun, reads = [], threading.Event(), graphs.Graphs._read

    def slowly(self, index):
        read.append(index)
        begun.set()
        while index == 0 and not self._wanted:  # until another one is asked for
            time.sleep(0.001)
        reads(self, index)

    monkeypatch.setattr(graphs.Graphs, "_read", slowly)
    undo = Undo()
    reading = graphs.Graphs(Bundle.open(path), None, undo)
    reading.read()
    begun.wait()
    with pytest.raises(FoundryError, match="before the start"):
        reading.require(2)
    undo.close()
    assert read[:2] == [0, 2]


def test_a_thread_that_the_system_refuses_leaves_nothing_behind(path, fake, monkeypatch):
    start = parallel.Worker.start

    def refuse(worker, work):
        if work.__name__ == "_declare_all":
            raise RuntimeError("can't start new thread")
        start(worker, work)

    monkeypatch.setattr(parallel.Worker, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        Session.open(path, first=FIRST)
    assert fake.live == ""


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Bundles of 60,000 nodes, of bases that let them be open together."""
    places = counters.STATE, counters.IO

    def write(number):
        for name, place in zip(("STATE", "IO"), places, strict=True):
            monkeypatch.setattr(counters, name, place + (number << 41))
        kernel = counters._launch(counters.STATE, 1), counters._skeleton(packed=False)
        table = counters._columns([(counters.KERNEL, 1, *kernel)] * 20_000, [])
        monkeypatch.setattr(counters, "templates", lambda: [table, table])
        return counters.write(tmp_path / f"large{number}.fdy")

    return write


# By default each thread has a heap of its own; with one for all, what is freed may shrink it.
@pytest.mark.parametrize("arenas", [{}, {"MALLOC_ARENA_MAX": "1"}])
def test_sessions_open_and_close_side_by_side(large, fake, arenas):
    paths = [str(large(number)) for number in range(3)]
    run(
        f"""
from concurrent.futures import ThreadPoolExecutor
from foundryrt.session import Session
def use(path):
    for _ in range(10):
        with Session.open(path, first=("last", {{}})) as session:
            session.wait()
with ThreadPoolExecutor() as pool:
    list(pool.map(use, {paths!r}))
""",
        **arenas,
    )


def test_an_interrupt_amid_closing_frees_nothing_twice(path, fake, monkeypatch):
    session = Session.open(path, first=FIRST)
    library = native.library()
    destroy = library.foundry_destroy

    def interrupted(handle):
        destroy(handle)
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "foundry_destroy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert fake.live == ""
    session.close()


def test_a_session_that_nobody_closed_is_freed_with_its_last_reference(path, fake):
    gc.disable()  # so that no cycle of references is left for it
    try:
        tensor = Session.open(path, first=FIRST).tensor("state")
        assert (tensor.read() == counters.INITIAL).all()
        del tensor
        assert fake.live == ""
        pipeline = Session.open(path).graph("last").pipeline(("state",), ("result",))
        for slot in range(2):
            pipeline.submit(slot, {"state": pipeline.staging("state")})
        assert (pipeline.wait(0)["result"] == 1000).all()
        del pipeline
        assert fake.live == ""
    finally:
        gc.enable()


def test_a_session_closes_its_pipelines(path, fake):
    with Session.open(path) as session:
        pipeline = session.graph("last").pipeline(("state",), ("result",))
        pipeline.submit(0, {"state": pipeline.staging("state")})
    assert fake.live == ""
    pipeline.close()


@pytest.mark.parametrize("use", ["pass", "session.wait()", "session.load_weights()", "del session"])
def test_nothing_hangs_at_exit_where_a_session_was_not_closed(large, fake, use):
    run(f"""
from foundryrt.session import Session
session = Session.open({str(large(0))!r}, first=("last", {{}}))
graph = session.graph("last")
graph.launch()
{use}
""")


@pytest.mark.parametrize(
    ("driver", "words"),
    [("/nowhere/libcuda.so", "install NVIDIA's driver"), ("libc.so.6", "a driver of CUDA 13.0")],
)
def test_python_and_native_code_open_one_driver_and_say_the_same(path, fake, driver, words):
    run(
        f"""
from foundryrt import native
from foundryrt.cuda.driver import driver
from foundryrt.errors import FoundryError
said = []
for use in (driver, lambda: native.stream(0, 0, [native.Buffer()], 1, [])):
    try:
        use()
    except FoundryError as error:
        said.append(str(error))
assert len(said) == 2 and all({words!r} in text for text in said), said
assert said[0] == said[1] or {driver!r} == "libc.so.6", said
""",
        FOUNDRY_LIBCUDA=driver,
    )


def test_sessions_keep_no_memory_nor_take_it_ahead_if_limited(large, fake):
    path = large(0)
    run(f"""
import resource
from foundryrt.session import Session
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4 >> 10
def use():
    with Session.open({str(path)!r}, first=("last", {{}})) as session:
        session.wait()
        return resident()
use()
closed = resident()
for _ in range(8):
    use()
assert resident() < closed + 30
resource.setrlimit(resource.RLIMIT_AS, (1 << 46, resource.RLIM_INFINITY))
assert min(use() for _ in range(3)) < closed + 80
""")


@pytest.mark.parametrize("stream", ["a", 1.5, object(), -1, 1 << 64])
def test_what_is_no_stream_is_refused(path, fake, stream):
    with Session.open(path) as session, pytest.raises(UsageError, match="stream"):
        session.graph("step", by=11).launch(stream)


@pytest.mark.parametrize(
    "wrong", [{"device": "0"}, {"device": -1}, {"device": 1 << 40}, {"base": "0x1"}, {"base": -1}]
)
def test_what_is_no_device_or_address_is_refused(path, fake, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Session.open(path, **wrong)
    assert fake.live == ""
