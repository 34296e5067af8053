"""Words and files between a command and a process that stands by."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from foundryrt.standby import server, wire

Ends = tuple[socket.socket, socket.socket]
Told = tuple["subprocess.Popen[bytes]", socket.socket]
words = st.binary(max_size=40).map(lambda b: os.fsdecode(b.replace(b"\0", b"")))


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """As a process that stands by at tmp_path / "s"."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        made.settimeout(30)
        made.listen()
        yield made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(words, min_size=1, max_size=9), max_size=4))
def test_words_arrive_as_they_were(ends: Ends, messages: list[list[str]]) -> None:
    for message in messages:
        wire.send(ends[0], *message)
    assert [wire.receive(ends[1]) for _ in messages] == [(message, []) for message in messages]


def test_files_arrive_with_a_message_that_is_longer_than_a_buffer(
    ends: Ends, tmp_path: Path
) -> None:
    message = ["run", *(f"NAME{i}={'x' * 1000}" for i in range(300))]
    with (tmp_path / "file").open("w+") as file:
        if (child := os.fork()) == 0:
            wire.send(ends[0], *message, files=(file.fileno(), 2))
            os._exit(0)
        found, files = wire.receive(ends[1], 3)
        os.waitpid(child, 0)
        assert found == message and len(files) == 2
        os.write(files[0], b"here")
        assert (tmp_path / "file").read_text() == "here"
        for each in files:
            os.close(each)


def test_the_end_and_what_is_no_message(ends: Ends) -> None:
    ends[0].sendall(b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="a message of 4294967295 bytes"):
        wire.receive(ends[1])
    ends[0].sendall(b"\x05\0\0\0cut")
    ends[0].shutdown(socket.SHUT_WR)
    assert wire.receive(ends[1]) == (None, [])


def test_a_command_imports_next_to_nothing_before_it_has_handed_over() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from foundryrt import start\n"
        "from foundryrt.standby import client, wire\n"
        "print(*{'json', 'socket', 'signal', 'typing', 're', 'enum', 'struct'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, str(Path(__file__).parents[2])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "\n"


_SIGNALLED = """
import os, signal, sys
from foundryrt.standby import client, wire

send, sent = wire.send, []

def signalled(connection, *words, files=()):
    send(connection, *words, files=files)
    if not sent:  # the command is there, and nothing else has happened here
        os.kill(os.getpid(), signal.SIGTERM)
    sent.append(words)

wire.send = signalled
sys.exit(client.hand_over(sys.argv[1], ["run"]))
"""


@pytest.fixture
def told(listener: socket.socket, tmp_path: Path) -> Iterator[Told]:
    """A command that was handed over, and has passed on the signal that came just then."""
    process = subprocess.Popen([sys.executable, "-c", _SIGNALLED, str(tmp_path / "s")])
    connection, _ = listener.accept()
    with connection:
        message, files = wire.receive(connection, 3)
        assert message is not None and message[0] == "run"
        for file in files:
            os.close(file)
        assert wire.receive(connection)[0] == ["signal", "15"]
        yield process, connection


def test_a_signal_is_passed_on_as_soon_as_the_command_is_handed_over(told: Told) -> None:
    process, connection = told
    wire.send(connection, "exit", "7")
    assert process.wait(30) == 7


def test_a_third_signal_ends_a_command_that_nobody_hears(told: Told) -> None:
    process, connection = told
    process.send_signal(signal.SIGINT)
    assert wire.receive(connection)[0] == ["signal", "2"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM


def test_a_signal_that_comes_as_the_command_ends_changes_nothing(told: Told) -> None:
    process, connection = told
    connection.shutdown(socket.SHUT_RD)  # as where it ends
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    wire.send(connection, "exit", "7")
    assert process.wait(30) == 7


def test_a_command_that_cannot_be_begun_is_told_so_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby = server.Standby(tmp_path / "s", lambda: sys.exit(5))
    running = threading.Thread(target=standby.serve, daemon=True)
    dup, lacking = os.dup, [OSError(24, "Too many open files")]
    monkeypatch.setattr(server.os, "dup", lambda file: _raise(lacking) if lacking else dup(file))
    monkeypatch.setattr(server, "_execute", lambda job, run: _in_place(job))
    running.start()
    for expected in (["refused", "the process that stands by cannot run it: Too many"], ["exit"]):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.settimeout(30)
            wire.send(client, "run", str(tmp_path), "0", files=(0, 1, 2))
            answer, _ = wire.receive(client)
            assert answer and answer[0] == expected[0]
            assert len(expected) == 1 or answer[1].startswith(expected[1])


def test_what_was_opened_for_a_command_that_cannot_begin_is_closed(
    ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = server._Job(ends[0], [0, 1, 2], [], str(tmp_path), dict(os.environ))
    dup, given = os.dup, []

    def some(file: int) -> int:
        if len(given) == 2:
            raise OSError(24, "Too many open files")
        given.append(dup(file))
        return given[-1]

    monkeypatch.setattr(server.os, "dup", some)
    streams, folder = (sys.stdin, sys.stdout, sys.stderr), os.getcwd()
    entered = server._as_client(job, lambda *_: None)
    with pytest.raises(OSError, match="Too many"):
        entered.__enter__()
    assert (sys.stdin, sys.stdout, sys.stderr) == streams and os.getcwd() == folder
    assert len(given) == 2
    for file in given:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)


def _raise(errors: list[OSError]) -> int:
    raise errors.pop()


def _in_place(job: server._Job) -> int:
    """As `_execute`, off the main thread, which alone may set handlers of signals."""
    os.close(os.dup(job.files[0]))
    return 0


def test_streams_that_are_closed_are_nobody_elses(listener: socket.socket, tmp_path: Path) -> None:
    """What is handed over for them reads as empty, and cannot be written to."""
    program = "from foundryrt.start import main; main()"
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", program]
    process = subprocess.Popen(
        [*command, "run", "x.fdy", "--standby"],
        env=os.environ | {"FOUNDRY_STANDBY": str(tmp_path / "s")},
    )
    connection, _ = listener.accept()
    with connection:
        _, files = wire.receive(connection, 3)
        assert [os.read(file, 1) for file in files] == [b"", b"", b""]
        for file in files:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(file, b"x")
            os.close(file)
        wire.send(connection, "exit", "0")
        assert process.wait(30) == 0


def test_a_connection_that_cannot_be_taken_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby = server.Standby(tmp_path / "s", lambda: None)
    listener, failures = standby._listener, [OSError(24, "Too many open files")] * 2

    class Failing:
        def accept(self) -> object:
            if failures:
                raise failures.pop()
            return listener.accept()

        def fileno(self) -> int:
            return listener.fileno()

    admitted: list[object] = []
    monkeypatch.setattr(standby, "_listener", Failing())
    monkeypatch.setattr(standby, "_admit", admitted.append)
    threading.Thread(target=standby._accept, daemon=True).start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        end = time.monotonic() + 30
        while not admitted:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not failures
    listener.close()


def test_a_socket_takes_the_place_of_a_dead_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with server._listen(path), pytest.raises(FoundryError, match=r"stands by at .* already"):
        server._listen(path)
    assert path.is_socket(), "as a process that was killed leaves it"
    server._listen(path).close()
    for name in ("file", "folder", "link"):
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).touch()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("work of hours")
    for name in ("file", "folder", "link"):
        with pytest.raises(UsageError, match=f"{name}: is there, and no socket"):
            server._listen(tmp_path / name)
    assert (tmp_path / "file").read_text() == "work of hours" and (tmp_path / "link").is_symlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(tmp_path / "log"))
        with pytest.raises(UsageError, match="log: is another program's socket"):
            server._listen(tmp_path / "log")
        assert (tmp_path / "log").is_socket()
