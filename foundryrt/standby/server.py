"""The process that stands by: it runs one command at a time, for its own user alone."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import queue
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TextIO

from foundryrt.console import note
from foundryrt.errors import FoundryError, UsageError
from foundryrt.standby import wire

_FIXED = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "FOUNDRY_LIBCUDA")
"""Settings that were read when this process started."""
_AGAIN = 0.1
"""Seconds until a connection is asked for again where there could be none."""
_CREDENTIALS = struct.Struct("<3i")  # struct ucred: process, user, group
_SIGNALS = {str(int(number)): number for number in (signal.SIGINT, signal.SIGTERM)}


@dataclass(frozen=True)
class _Job:
    """A command: its connection, and the files that are its input and outputs."""

    connection: socket.socket
    files: list[int]
    arguments: list[str]
    folder: str
    environment: dict[str, str]


class Standby:
    """Listens at `path`; `run` runs a command with the arguments in sys.argv.

    FoundryError where another process stands by there, or the socket cannot be made.
    """

    def __init__(self, path: Path, run: Callable[[], None]) -> None:
        self._run = run
        self._jobs: queue.Queue[_Job] = queue.Queue()
        self._free = threading.Lock()
        self._path = path
        self._listener = _listen(path)

    def __enter__(self) -> Standby:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def serve(self) -> None:
        """Run what is handed over, until a signal ends this process."""
        threading.Thread(target=self._accept, daemon=True).start()
        gc.freeze()  # what has been imported stays, and need not be looked through again
        frozen = gc.get_freeze_count()
        while True:
            job = self._jobs.get()
            try:
                answer = "exit", str(_execute(job, self._run))
            except OSError as error:  # no more files may be open
                answer = "refused", f"the process that stands by cannot run it: {error.strerror}"
            for file in job.files:
                os.close(file)
            if gc.get_freeze_count() > frozen:  # a server freezes what it has made
                gc.unfreeze()
            gc.collect()  # what the command left in cycles holds device memory
            if not gc.get_freeze_count():
                gc.freeze()
            self._free.release()
            with contextlib.suppress(OSError):  # nobody waits for it any more
                wire.send(job.connection, *answer)
            job.connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return  # it is closed
                time.sleep(_AGAIN)  # such as where no more files may be open
                continue
            try:
                self._admit(connection)
            except (OSError, ValueError):
                connection.close()  # whoever it was is gone, or is no command of ours

    def _admit(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(peer)[1] != os.getuid():
            connection.close()
            return
        message, files = wire.receive(connection, 3)
        with contextlib.ExitStack() as refused:
            for file in files:
                refused.callback(os.close, file)
            connection.settimeout(None)
            if message is None or message[:1] != ["run"]:
                raise ValueError("no command")
            _, folder, count, *words = message
            arguments, environment = words[: int(count)], words[int(count) :]
            variables = (variable.partition("=") for variable in environment)
            job = _Job(
                connection, files, arguments, folder, {name: value for name, _, value in variables}
            )
            if problem := self._refusal(job):
                wire.send(connection, "refused", problem)
                connection.close()
                return
            refused.pop_all()
        self._jobs.put(job)

    def _refusal(self, job: _Job) -> str:
        if len(job.files) != 3:  # the system has left some out
            return "the process that stands by may open no more files"
        for name in _FIXED:
            own, wanted = os.environ.get(name), job.environment.get(name)
            if own != wanted:
                return (
                    f"{name} is {wanted or 'not set'} here and {own or 'not set'} in the process"
                    " that stands by; start one with the same setting"
                )
        if not self._free.acquire(blocking=False):
            return (
                "the process that stands by is busy with another command; start a second one, with"
                " another --socket, and name it by FOUNDRY_STANDBY"
            )
        return ""


def _listen(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid != os.getuid():
            raise FoundryError(f"{path.parent} belongs to somebody else; give a --socket")
        with socket.socket(socket.AF_UNIX) as probe:
            said = probe.connect_ex(str(path))
        if said == 0:
            raise FoundryError(f"a process stands by at {path} already; give another --socket")
        if os.path.lexists(path):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise UsageError(f"{path}: is there, and no socket; give another --socket")
            if said != errno.ECONNREFUSED:  # such as of datagrams: somebody may listen there
                raise UsageError(f"{path}: is another program's socket; give another --socket")
            path.unlink()  # of a process that was killed
        listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen()
    except OSError as error:
        why = error.strerror or error
        raise FoundryError(f"{path}: no socket can be made there: {why}") from error
    return listener


def _execute(job: _Job, run: Callable[[], None]) -> int:
    """Run a command in this process as if it were the client's own; its exit code.

    OSError where it cannot be begun.
    """
    watch = _Watch(job.connection)
    with _as_client(job, watch.pass_on), watch:
        try:
            try:
                watch.begin()
                run()
            finally:
                # Nothing is called before this, so that no signal ends what ends the command.
                watch.over = True
                watch.settle()
        except SystemExit as end:
            return _code(end.code)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except BaseException:
            with contextlib.suppress(OSError):  # the client has gone, and its stderr with it
                traceback.print_exc()
            return 1
        return 0


def _code(value: object) -> int:
    if value is None or isinstance(value, int):
        return value or 0
    with contextlib.suppress(OSError):
        note(value)
    return 1


class _Watch:
    """Passes on the client's signals to this thread; a client that has gone is an interrupt."""

    def __init__(self, connection: socket.socket) -> None:
        self.over = False
        """The command has ended: what is still on its way from its client is for nobody."""
        self._settled = False
        self._connection = connection
        self._lock = threading.Lock()
        self._command = threading.get_ident()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> _Watch:
        return self

    def begin(self) -> None:
        """From here on: one may have been waiting, and ends the command here already."""
        # A signal within the start would leave its locks as they must not be.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS.values())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def pass_on(self, number: int, _: object) -> None:
        """Handles a signal: the command ends, or, if it has, this process."""
        if not self.over or self._settled:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def settle(self) -> None:
        """Once it is over: what the client has sent has come, and other signals are our own."""
        with self._lock:
            pass
        # The system hands over what it has for this thread, and Python handles all of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._settled = True

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # it is gone
            self._connection.shutdown(socket.SHUT_RD)
        if self._thread.ident is not None:  # it could be started
            self._thread.join()

    def _read(self) -> None:
        while True:
            try:
                message, _ = wire.receive(self._connection)
            except (OSError, ValueError):
                message = None
            # A client that is gone interrupts its command.
            number = str(int(signal.SIGINT)) if message is None else message[-1]
            with self._lock:
                if not self.over and number in _SIGNALS:
                    signal.pthread_kill(self._command, _SIGNALS[number])
            if message is None:
                return


@contextlib.contextmanager
def _as_client(job: _Job, on_signal: Callable[[int, object], None]) -> Iterator[None]:
    """The client's files, folder, environment and arguments, and an end that is only its own.

    Modules that it finds in folders of its own are imported again for the next command.
    """
    kept: list[int] = []
    streams = sys.stdin, sys.stdout, sys.stderr
    folder, environment, arguments = os.getcwd(), dict(os.environ), sys.argv
    handlers = {number: signal.getsignal(number) for number in _SIGNALS.values()}
    path, modules = sys.path[:], {name.partition(".")[0] for name in sys.modules}
    try:
        kept.extend(os.dup(file) for file in range(3))
        for file, own in zip(job.files, range(3), strict=True):
            os.dup2(file, own)
        sys.stdin, sys.stdout, sys.stderr = _open(0, "r"), _open(1, "w"), _open(2, "w")
        os.chdir(job.folder)
        _replace_environment(job.environment)
        sys.argv = ["foundryrt", *job.arguments]
        for number in handlers:
            signal.signal(number, on_signal)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.stdin, sys.stdout, sys.stderr = streams
        for own, copy in enumerate(kept):
            os.dup2(copy, own)
            os.close(copy)
        os.chdir(folder)
        _replace_environment(environment)
        sys.argv = arguments
        _forget_modules(modules, {job.folder, *sys.path} - {"", *path})
        sys.path[:] = path


def _forget_modules(known: set[str], folders: set[str]) -> None:
    """Drop modules that were found in `folders`, unless their names are `known`.

    The next command may find other files there, or have other modules of these names. What lies
    deeper stays, such as the libraries of an environment in a project's folder: some of these
    cannot be imported twice.
    """
    new = {name.partition(".")[0] for name in sys.modules} - known
    gone = {name for name in new if _found_in(sys.modules.get(name)) in folders}
    for name in list(sys.modules):
        if name.partition(".")[0] in gone:
            del sys.modules[name]


def _found_in(module: ModuleType | None) -> str:
    """The folder that holds a module's file, or its package's folder; empty for others."""
    file = getattr(module, "__file__", None)
    packages = list(getattr(module, "__path__", ()))
    return os.path.dirname(packages[0] if packages else file or "")


def _open(file: int, mode: str) -> TextIO:
    stream = open(file, mode, closefd=False, errors="backslashreplace")  # noqa: SIM115
    stream.reconfigure(line_buffering=stream.isatty() or file == 2)  # type: ignore[attr-defined]
    return stream  # type: ignore[return-value]


def _replace_environment(values: dict[str, str]) -> None:
    for name in set(os.environ) - set(values):
        del os.environ[name]
    os.environ.update(values)
