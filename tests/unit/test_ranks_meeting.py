"""Ranks that meet: what is refused, and how it is said. The ranks are threads of this process."""

from __future__ import annotations

import os
import resource
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.bundle.ranks import MOST
from foundryrt.errors import FoundryError, RankLost, UsageError
from foundryrt.ranks.followers import Followers, ending
from foundryrt.ranks.meeting import ALIVE, Hello, connect, listen, patience, receive, send

DIGEST = "ab" * 32
OWN = Hello(0, 3, DIGEST, "", (), os.getpid())


@pytest.fixture
def met() -> Iterator[tuple[Followers, str]]:
    name = f"foundryrt-test-{secrets.token_hex(8)}"
    with Followers(3, range(3), name) as followers:
        yield followers, name


def said(name: str, hello: Hello, **changes: object) -> socket.socket:
    connection = connect(name, 5)
    send(connection, hello.message() | changes)
    return connection


def of(rank: int, **changes: Any) -> Hello:
    return replace(OWN, rank=rank, pid=1000 + rank, **changes)


def test_all_ranks_are_told_and_heard(met) -> None:
    followers, name = met
    lines = {rank: said(name, of(rank)) for rank in (2, 1)}
    followers.meet(OWN)
    ours, theirs = os.pipe()
    followers.tell({"order": 1}, (theirs,))
    for rank, line in lines.items():
        message, (file,) = receive(line)
        assert message == {"order": 1}
        os.write(file, b"x")
        send(line, {"stage": "slab"}, (file,))
        os.close(file)
        assert os.read(ours, 1) == b"x", rank
    arrived = followers.await_all("slab")
    assert sorted(arrived) == [1, 2]
    for (file,) in arrived.values():
        os.write(file, b"y")
        os.close(file)
    assert os.read(ours, 2) == b"yy"
    os.close(ours), os.close(theirs)


class Ended:
    """A process that has ended."""

    pid = 1001

    def poll(self) -> int:
        return 1

    def kill(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> int:
        return 1


def test_what_a_rank_said_before_it_ended_is_heard(met) -> None:
    followers, name = met
    followers._processes[1] = Ended()
    other = said(name, of(2))
    line = connect(name, 5)
    send(line, {"failed": "none.fdy: no such file", "rank": 1})
    line.close()
    with pytest.raises(FoundryError, match=r"rank 1 cannot take part: none\.fdy: no such file"):
        followers.meet(OWN)
    other.close()


def test_a_rank_that_ended_and_said_nothing_is_named(met) -> None:
    followers, name = met
    followers._processes[1] = Ended()
    with (
        said(name, of(2)),
        pytest.raises(FoundryError, match=r"rank 1 \(process 1001\) ended with exit code 1"),
    ):
        followers.meet(OWN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "cd" * 32}, r"rank 1 \(process 1001\) opened another bundle, cdcdcdcdcdcd"),
        ({"world": 2}, "rank 1 .* was started as one of 2, rank 0 as one of 3"),
        ({"rank": 0}, "is rank 0's own place"),
        ({"rank": 3}, "start every rank once, numbered 0 to 2"),
        ({"version": "0.0"}, r"runs foundryrt 0\.0, rank 0 .*: use one version"),
        ({"protocol": 99}, "speaks protocol 99, not 2"),
        ({"pid": "1"}, "cannot take part: no hello"),
        ({"visible": None}, "cannot take part: no hello"),
        ({"more": 1}, "cannot take part: no hello"),
    ],
)  # fmt: skip
def test_a_rank_that_differs_is_named_and_told(met, changes, message) -> None:
    followers, name = met
    line = said(name, of(1), **changes)
    with pytest.raises(FoundryError, match=message):
        followers.meet(OWN)
    answer, _ = receive(line)
    assert answer is not None and set(answer) == {"refused"}


def test_a_rank_that_is_there_twice(met) -> None:
    followers, name = met
    lines = [said(name, of(1)), said(name, of(1))]
    with pytest.raises(FoundryError, match=r"rank 1 .* is there twice"):
        followers.meet(OWN)
    assert len(lines) == 2


def test_ranks_that_are_late_are_named(met, monkeypatch) -> None:
    followers, name = met
    monkeypatch.setenv("FOUNDRY_RANK_TIMEOUT", "0.2")
    line = said(name, of(1))
    with pytest.raises(FoundryError, match=r"rank 2 of 3 did not come within 0\.2 s"):
        followers.meet(OWN)
    line.close()
    with pytest.raises(FoundryError, match=r"rank 0 did not come within 0\.1 s"):
        connect("foundryrt-test-nobody", 0.1)


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "inf", "nan"])
def test_a_patience_that_is_none(monkeypatch, text) -> None:
    monkeypatch.setenv("FOUNDRY_RANK_TIMEOUT", text)
    with pytest.raises(UsageError, match="FOUNDRY_RANK_TIMEOUT"):
        patience()


def test_a_rank_that_takes_long_to_say_who_it_is_is_waited_for(met) -> None:
    """It opens its bundle first; others are heard meanwhile."""
    followers, name = met
    line, others = connect(name, 5), [said(name, of(2))]
    meeting = threading.Thread(target=followers.meet, args=(OWN,))
    meeting.start()
    while 2 not in followers._members:
        assert meeting.is_alive()
    send(line, of(1).message())
    meeting.join(60)
    assert set(followers._members) == {1, 2} and len(others) == 1


@pytest.mark.parametrize("last", [None, {"failed": "no memory"}])
def test_a_rank_that_ends_before_all_have_come(met, monkeypatch, last) -> None:
    followers, name = met
    monkeypatch.setenv("FOUNDRY_RANK_TIMEOUT", "30")
    line = said(name, of(1))
    send(line, ALIVE)
    if last:
        send(line, last)
    line.close()
    why = last["failed"] if last else "it has ended"
    with pytest.raises(FoundryError, match=rf"rank 1 \(process 1001\) cannot take part: {why}"):
        followers.meet(OWN)


def test_ranks_of_a_process_with_many_files_open(monkeypatch) -> None:
    """A server has one for each client; select(2) takes those below 1024 alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    files = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while files[-1] < 1100:
            files.append(os.dup(files[0]))
        name = f"foundryrt-test-{secrets.token_hex(8)}"
        with Followers(2, range(2), name) as followers:
            line = said(name, replace(OWN, rank=1, world=2))
            followers.meet(replace(OWN, world=2))
            send(line, {"stage": "slab"})
            assert list(followers.await_all("slab")) == [1]
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_is_no_rank_is_sent_away(met) -> None:
    followers, name = met
    stranger, gone = connect(name, 5), connect(name, 5)
    stranger.send(b"\xff not JSON")
    gone.close()
    lines = [said(name, of(rank)) for rank in (1, 2)]
    followers.meet(OWN)
    assert receive(stranger)[0] is None
    assert len(lines) == 2


def test_processes_of_other_users_are_no_ranks(met, monkeypatch) -> None:
    followers, name = met
    lines = [said(name, of(rank)) for rank in (1, 2)]
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    monkeypatch.setenv("FOUNDRY_RANK_TIMEOUT", "0.2")
    with pytest.raises(FoundryError, match="rank 1, 2 of 3 did not come"):
        followers.meet(OWN)
    for line in lines:
        with pytest.raises(ConnectionResetError):  # nothing that it said was read
            receive(line)


def test_a_rank_0_of_another_user_is_none(met, monkeypatch) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(FoundryError, match="another user listens where rank 0 should"):
        connect(met[1], 5)


def test_gpus_that_a_rank_does_not_see(met) -> None:
    followers, name = met
    own = replace(OWN, gpu="GPU-0", visible=("GPU-0", "GPU-1", "GPU-2"))
    lines = [
        said(name, of(1, gpu="GPU-1", visible=own.visible)),
        said(name, of(2, gpu="GPU-2", visible=("GPU-2",))),
    ]
    with pytest.raises(
        FoundryError, match=r"rank 2 \(process 1002\) does not see the GPU of rank 0"
    ):
        followers.meet(own)
    assert len(lines) == 2


def test_two_first_ranks_at_one_place(met) -> None:
    with pytest.raises(FoundryError, match="another rank 0 of this start is listening already"):
        listen(met[1])


def lost_by(act: Callable[[socket.socket], object], followers: Followers, name: str) -> str:
    lines = {rank: said(name, of(rank)) for rank in (1, 2)}
    followers.meet(OWN)
    known = threading.Event()
    ranks: list[int] = []
    followers.on_loss += [ranks.append, lambda _: known.set()]
    act(lines[2])
    assert known.wait(30) and ranks == [2]
    with pytest.raises(RankLost) as caught:
        followers.await_all("ready")
    return str(caught.value)


def test_a_rank_that_fails_or_ends_is_lost(met) -> None:
    message = lost_by(lambda line: send(line, {"failed": "no weights"}), *met)
    assert message == "rank 2 (process 1002) failed: no weights; start all ranks again"


def test_the_slabs_of_as_many_ranks_as_there_can_be_come_with_the_ring() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        send(ours, {"slabs": [*range(MOST)]}, (ours.fileno(),) * (1 + MOST))
        _, files = receive(theirs)
    assert len(files) == 1 + MOST
    for file in files:
        os.close(file)


def test_a_rank_whose_connection_ends_is_lost(met) -> None:
    assert "rank 2 (process 1002) has ended" in lost_by(socket.socket.close, *met)


def test_the_first_loss_is_the_one_that_is_told(met) -> None:
    followers, name = met
    lines = [said(name, of(rank)) for rank in (1, 2)]
    followers.meet(OWN)
    followers.lose(2, "is tired")
    followers.lose(1, "followed")
    with pytest.raises(RankLost, match=r"rank 2 .* is tired"):
        followers.check()
    assert len(lines) == 2


def test_a_rank_that_says_nothing_is_lost(met, monkeypatch) -> None:
    monkeypatch.setattr("foundryrt.ranks.followers.patience", lambda: 0.3)
    monkeypatch.setattr("foundryrt.ranks.followers._SILENT", 0.1)
    monkeypatch.setattr("foundryrt.ranks.followers._LOOK", 0.05)
    followers, name = met
    lines = [said(name, of(rank)) for rank in (1, 2)]
    followers.meet(OWN)
    while followers.lost is None:
        send(lines[1], ALIVE)
        time.sleep(0.02)
    with pytest.raises(RankLost, match=r"rank 1 \(process 1001\) said nothing for 0\.3 s"):
        followers.check()


def test_the_rank_that_did_not_answer_is_lost_and_not_the_one_that_says_so(met) -> None:
    followers, name = met
    lines = [said(name, of(rank)) for rank in (1, 2)]
    followers.meet(OWN)
    send(lines[0], {"missing": 2})
    with pytest.raises(RankLost, match=r"rank 2 \(process 1002\) did not answer within 8 s"):
        followers.await_all("slab")


def test_ends_that_are_expected_are_no_loss(met) -> None:
    followers, name = met
    lines = [said(name, of(rank)) for rank in (1, 2)]
    followers.meet(OWN)
    followers.expect_end()
    send(lines[0], {"failed": "to close"})
    for line in lines:
        line.close()
    followers.close()
    followers.check()


@given(
    message=st.dictionaries(
        st.sampled_from(["protocol", "rank", "world", "digest", "gpu", "visible", "pid", "x"]),
        st.none() | st.integers() | st.text() | st.lists(st.text() | st.integers(), max_size=2),
    )
)
def test_no_message_but_a_hello_is_read_as_one(message: dict[str, Any]) -> None:
    try:
        hello = Hello.read(message | {"protocol": 1})
    except ValueError:
        return
    assert Hello.read(hello.message()) == hello


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
    ],
)
def test_how_a_process_ended(code: int, words: str) -> None:
    assert ending(code) == words
