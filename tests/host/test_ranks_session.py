"""A session of several ranks, each a process on the CPU: results, order, failures."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from foundryrt import Session, UsageError
from foundryrt.backend import open_backend
from foundryrt.errors import FoundryError, RankLost
from foundryrt.host.backend import HostBackend
from foundryrt.ranks.followers import Followers
from foundryrt.ranks.meeting import listen
from foundryrt.ranks.spawn import _process, _words, spawn
from tests.host import rank_processes as processes
from tests.host.rank_processes import WIDTH, alive, parts, record

X = np.array([0, -1.5, 2, 3, 1e6], np.float32)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("ranks")
    return {world: record(folder / f"{world}.fdy", world) for world in (2, 3, 4)}


@contextmanager
def opened(path: Path, world: int) -> Iterator[tuple[Session, dict[int, int]]]:
    """A session, and the processes of the other ranks; all have ended afterwards."""
    with Followers.start(path, world) as followers:
        found = processes.followers(os.getpid())
        with Session.open(path, followers=followers) as session:
            yield session, found
    assert set(found) == set(range(1, world))
    assert not any(map(alive, found.values()))


@pytest.mark.parametrize("world", [2, 3])
def test_results_are_those_of_all_ranks(bundles, world: int) -> None:
    with opened(bundles[world], world) as (session, _):
        graph, total = session.graph("parts"), np.zeros(5, np.float32)
        copies = graph.readback("parts")
        for step in range(20):
            x = X * step
            session.write("x", x)
            graph.launch()
            copies.start()
            session.graph("add").launch()
            total += parts(x, world).sum(0)
            np.testing.assert_array_equal(copies.wait(), parts(x, world))
            np.testing.assert_array_equal(graph.read("parts"), parts(x, world))
        np.testing.assert_array_equal(session.read("total"), total)
        session.synchronize()


def test_a_rank_imports_what_it_needs_before_rank_0_listens(bundles) -> None:
    """Else those imports would begin only when rank 0 has done its own."""
    spawned = spawn(bundles[2], 2)
    try:
        process = spawned.processes[1]
        end = time.monotonic() + 60
        # A library of what reads bundles, which is imported for nothing before.
        while "msgspec" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
    finally:
        spawned.end()


def test_other_ranks_beside_those_of_a_session(bundles) -> None:
    """Either may be closed first, also before the other is opened."""

    def beside(session: Session, world: int) -> Session:
        start = Followers.start(bundles[world], world)
        return session.beside(bundles[world], lambda own, other: [], lambda _: start)

    with opened(bundles[2], 2) as (two, _):
        three = beside(two, 3)
        for session, world in ((two, 2), (three, 3), (two, 2)):
            session.write("x", X)
            session.graph("parts").launch()
            np.testing.assert_array_equal(session.graph("parts").read("parts"), parts(X, world))
        assert three.followers and three.followers.world == 3
        two.close()
        with beside(two, 2) as again:
            for session, world in ((three, 3), (again, 2)):
                session.write("x", X)
                session.graph("parts").launch()
                np.testing.assert_array_equal(session.graph("parts").read("parts"), parts(X, world))
        three.close()


def test_ranks_that_cannot_be_opened_beside_have_ended(bundles) -> None:
    with opened(bundles[2], 2) as (session, _):
        start = Followers.start(bundles[3], 3)
        with pytest.raises(FoundryError, match="the bundle is for 4 ranks, and 3 were started"):
            session.beside(bundles[4], lambda own, other: [], lambda _: start)
        assert set(processes.followers(os.getpid())) == {1}


def test_one_process_goes_on_where_rank_0_was(bundles, monkeypatch) -> None:
    with (
        Followers.start(bundles[2], 2, [5, 6]) as ranks,
        Session.open(bundles[2], followers=ranks) as session,
    ):
        devices: list[int] = []

        def opening(bundle, weights, device, *more, **named):  # type: ignore[no-untyped-def]
            devices.append(device)
            return open_backend(bundle, weights, device, *more, **named)

        monkeypatch.setattr("foundryrt.session.open_backend", opening)
        with session.beside(bundles[2], lambda own, other: []) as alone:
            alone.beside(bundles[2], lambda own, other: []).close()
        assert devices == [5, 5]


def test_a_write_of_several_records_comes_whole(bundles) -> None:
    with opened(bundles[2], 2) as (session, _):
        for seed in range(3):
            values = np.random.default_rng(seed).integers(-9, 9, WIDTH, np.int32)
            session.write("large", values)
            session.write("x", X)
            session.graph("large").launch()
            wanted = [[values.sum()], [2 * values.sum()]]
            np.testing.assert_array_equal(session.graph("large").read("sums"), wanted)


def test_many_launches_go_on_without_a_read(bundles) -> None:
    with opened(bundles[3], 3) as (session, _):
        session.write("x", np.ones(5, np.float32))
        for _ in range(2000):
            session.graph("add").launch()
        np.testing.assert_array_equal(session.read("total"), [2000 * (1 + 2 + 3)] * 5)


def test_all_graphs_become_ready_and_weights_load_again(bundles) -> None:
    seen = []
    with opened(bundles[2], 2) as (session, _):
        session.wait(lambda *counts: seen.append(counts))
        assert session.ready() == 4 and seen[-1] == (4, 4)
        session.load_weights()
        session.wait()
        session.graph("parts").launch()


def test_ranks_outlive_the_thread_that_started_them(bundles) -> None:
    started: list[Followers] = []

    def start() -> None:
        started.append(Followers.start(bundles[2], 2))
        select.select([started[0]._listener], [], [])  # the other rank runs by now

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with started[0] as followers, Session.open(bundles[2], followers=followers) as session:
        session.write("x", X)
        session.graph("parts").launch()
        np.testing.assert_array_equal(session.graph("parts").read("parts"), parts(X, 2))


@pytest.mark.parametrize("call", ["load_weights", "wait"])
def test_what_others_are_behind_with_is_waited_for(bundles, call: str) -> None:
    with opened(bundles[3], 3) as (session, found):
        os.kill(found[2], signal.SIGSTOP)
        thread = threading.Thread(target=getattr(session, call))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        os.kill(found[2], signal.SIGCONT)
        thread.join(60)
        assert not thread.is_alive()


def test_what_one_rank_alone_would_do_is_refused(bundles) -> None:
    with opened(bundles[2], 2) as (session, _):
        graph = session.graph("parts")
        with pytest.raises(UsageError, match="no stream"):
            graph.launch(stream=0)
        with pytest.raises(UsageError, match="no pipeline"):
            graph.pipeline(["x"], ["parts"])
        with pytest.raises(UsageError, match="ranks share no memory"):
            session.beside(bundles[2], lambda own, other: ["state"])
        with pytest.raises(ValueError, match="read-only"):
            session.tensor("x")[0] = 1  # type: ignore[index]
        with pytest.raises(UsageError, match="no random numbers"):
            session.seed(1)
        with pytest.raises(UsageError, match="x is float32"):
            session.write("x", np.zeros(4, np.float32))
        with pytest.raises(UsageError, match="says which rank each process is"):
            session.write("ranks", session.read("ranks"))
        # None of these has gone to one rank alone.
        session.write("x", X)
        graph.launch()
        np.testing.assert_array_equal(graph.read("parts"), parts(X, 2))


@pytest.mark.parametrize("given", [{"base": 1}, {"place": {"state": 1}}, {"grow": {"x": 9}}])
def test_ranks_open_a_bundle_as_it_is(bundles, given: dict) -> None:
    with (
        Followers.start(bundles[2], 2) as followers,
        pytest.raises(UsageError, match="give them no base, place or grow"),
    ):
        Session.open(bundles[2], followers=followers, **given)
    assert not processes.followers(os.getpid())


def test_numbers_of_ranks_that_do_not_fit(bundles) -> None:
    with pytest.raises(UsageError, match="2 to 64"):
        Followers.start(bundles[2], 1)
    with pytest.raises(UsageError, match="name one for each"):
        Followers.start(bundles[2], 2, [0])
    with (
        Followers.start(bundles[3], 2) as followers,
        pytest.raises(UsageError, match="is for 3 ranks, and 2 were started"),
    ):
        Session.open(bundles[3], followers=followers)
    assert not processes.followers(os.getpid())


def test_ranks_that_were_not_met_are_not_waited_for(bundles, monkeypatch) -> None:
    """They know nothing of an end, and would look for this process for a minute."""
    monkeypatch.setattr("foundryrt.ranks.followers._LAST_WORDS", 600.0)
    with Followers.start(bundles[2], 2):
        assert set(processes.followers(os.getpid())) == {1}
    assert not processes.followers(os.getpid())


def test_ranks_are_for_one_session(bundles) -> None:
    with Followers.start(bundles[2], 2) as followers:
        with Session.open(bundles[2], followers=followers) as session:
            with pytest.raises(UsageError, match="have had their session"):
                Session.open(bundles[2], followers=followers)
            session.write("x", X)
            session.graph("parts").launch()
            np.testing.assert_array_equal(session.graph("parts").read("parts"), parts(X, 2))
        with pytest.raises(UsageError, match="have had their session"):
            Session.open(bundles[2], followers=followers)


def test_nothing_is_launched_once_the_other_ranks_are_closed(bundles) -> None:
    followers = Followers.start(bundles[2], 2)
    with Session.open(bundles[2], followers=followers) as session:
        followers.close()
        with pytest.raises(RankLost, match="close the session first"):
            session.graph("parts").launch()


def test_a_killed_rank_ends_the_session(bundles) -> None:
    with opened(bundles[3], 3) as (session, found):
        session.graph("parts").launch()
        os.kill(found[2], signal.SIGKILL)
        message = rf"rank 2 \(process {found[2]}\) was killed by SIGKILL"
        with pytest.raises(RankLost, match=message):
            while True:
                session.graph("parts").launch()
        for call in (
            session.graph("parts").launch, session.synchronize, session.ready, session.wait,
            lambda: session.read("x"), lambda: session.write("x", X),
        ):  # fmt: skip
            with pytest.raises(RankLost, match=message):
                call()


def test_a_death_ends_an_exchange_under_way(bundles, monkeypatch) -> None:
    """And not the bound of the wait, here ten minutes."""
    join, minutes = HostBackend.join, 600_000
    monkeypatch.setattr(HostBackend, "join", lambda own, slabs: join(own, slabs, minutes))
    with opened(bundles[2], 2) as (session, found):
        session.graph("parts").launch()
        os.kill(found[1], signal.SIGSTOP)

        def launch() -> None:
            with pytest.raises(RankLost, match="was killed by SIGKILL"):
                session.graph("parts").launch()

        launching = threading.Thread(target=launch)
        launching.start()
        launching.join(0.5)
        assert launching.is_alive()
        os.kill(found[1], signal.SIGKILL)
        launching.join(60)
        assert not launching.is_alive()


def test_a_rank_that_hangs_is_named(bundles, monkeypatch) -> None:
    join = HostBackend.join
    monkeypatch.setattr(HostBackend, "join", lambda own, slabs: join(own, slabs, 2_000))
    with opened(bundles[3], 3) as (session, found):
        session.graph("parts").launch()
        os.kill(found[1], signal.SIGSTOP)
        with pytest.raises(RankLost, match=rf"^rank 1 \(process {found[1]}\) did not answer"):
            session.graph("parts").launch()


def test_a_rank_that_hangs_where_nothing_is_exchanged_is_named(bundles, monkeypatch) -> None:
    monkeypatch.setattr("foundryrt.ranks.followers.patience", lambda: 3.0)
    monkeypatch.setattr("foundryrt.ranks.followers._SILENT", 3.0)
    values = np.zeros(WIDTH, np.int32)
    with opened(bundles[3], 3) as (session, found):
        os.kill(found[2], signal.SIGSTOP)
        with pytest.raises(RankLost, match=rf"rank 2 \(process {found[2]}\) said nothing for 3 s"):
            while True:  # until there is no room for more
                session.write("large", values)


@pytest.mark.parametrize("stage", ["slab", "ready"])
def test_a_rank_that_hangs_before_the_session_is_open_is_named(
    bundles, monkeypatch, stage: str
) -> None:
    monkeypatch.setattr("foundryrt.ranks.followers.patience", lambda: 3.0)
    monkeypatch.setattr("foundryrt.ranks.followers._SILENT", 3.0)
    await_all = Followers.await_all

    def stopped(own: Followers, wanted: str, *more):  # type: ignore[no-untyped-def]
        if wanted == stage:
            os.kill(processes.followers(os.getpid())[1], signal.SIGSTOP)
            own._said.pop(stage, None)  # it has just not come as far
        return await_all(own, wanted, *more)

    monkeypatch.setattr(Followers, "await_all", stopped)
    with (
        Followers.start(bundles[2], 2) as followers,
        pytest.raises(RankLost, match=r"rank 1 \(process \d+\) said nothing for 3 s"),
    ):
        Session.open(bundles[2], followers=followers)
    assert not processes.followers(os.getpid())


def test_a_rank_that_fails_says_why(bundles) -> None:
    with opened(bundles[2], 2) as (session, found):
        session.write("place", np.array([9]))
        with pytest.raises(RankLost, match=rf"process {found[1]}\) failed: .*out of range"):
            session.graph("faulty").launch()
            while True:
                session.read("x")
                time.sleep(0.01)


def test_what_fails_here_ends_the_other_ranks(bundles, monkeypatch) -> None:
    with opened(bundles[2], 2) as (session, _):
        session.graph("parts").launch()

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(type(session._backend()._own), "launch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.graph("parts").launch()
        monkeypatch.undo()
        with pytest.raises(RankLost, match="rank 0 failed: KeyboardInterrupt"):
            session.graph("parts").launch()


def test_a_rank_says_nothing_where_rank_0_is_gone(bundles, capfd) -> None:
    name = f"foundryrt-test-{os.getpid()}"
    listener = listen(name)
    process = _process(_words(bundles[2], 1, 2, 0, name))
    select.select([listener], [], [])
    listener.close()  # before it has said who it is
    assert process.wait(60) == 1 and capfd.readouterr().err == ""


def test_a_thread_that_the_system_refuses_leaves_no_ranks_behind(bundles, monkeypatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "foundry-ranks":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with (
        Followers.start(bundles[2], 2) as followers,
        pytest.raises(RuntimeError, match="can't start new thread"),
    ):
        Session.open(bundles[2], followers=followers)
    assert not processes.followers(os.getpid())


def test_a_rank_that_cannot_open_the_bundle(bundles, tmp_path: Path) -> None:
    with (
        Followers.start(tmp_path / "none.fdy", 2) as followers,
        pytest.raises(FoundryError, match=r"cannot take part: .*none\.fdy: no such file"),
    ):
        Session.open(bundles[2], followers=followers)


def test_another_bundle_on_one_rank(bundles, tmp_path: Path) -> None:
    other = record(tmp_path / "other.fdy", 2, extra=1.0)
    with (
        Followers.start(other, 2) as followers,
        pytest.raises(FoundryError, match=r"rank 1 \(process \d+\) opened another bundle"),
    ):
        Session.open(bundles[2], followers=followers)
    assert not processes.followers(os.getpid())
