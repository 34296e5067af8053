"""Forks that become ranks, and processes where this one cannot be forked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BEGIN = """
import json, os, signal, subprocess, sys, threading
from foundryrt.ranks import begin, spawn

kept, path, main = open(os.devnull), sys.argv[1], begin.main

def report(words):
    files = {int(each) for each in os.listdir("/proc/self/fd")}
    found = {
        "files": sorted(each for each in files if os.path.exists(f"/proc/self/fd/{each}")),
        "links": [os.readlink(f"/proc/self/fd/{each}") for each in (0, 1)],
        "group": os.getpgid(0) == os.getpid(),
        "blocked": [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))],
        "words": words,
    }
    with open(path, "w") as file:
        json.dump(found, file)
    print("nobody reads this", flush=True)

begin.main = report
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BEGIN + program, *map(str, arguments)], cwd=ROOT, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip


def test_a_fork_has_nothing_of_the_command_but_its_errors(tmp_path: Path) -> None:
    done = run(
        "forked = spawn.spawn('a.fdy', 2, (3, 4), fork=True).processes[1]\n"
        "assert isinstance(forked, spawn.Fork)\n"
        "print(forked.wait(30), forked.returncode, forked.poll())\n"
        "forked.kill()",  # of what has ended
        tmp_path / "found",
    )
    assert (done.stdout, done.stderr) == ("1 1 1\n", "")
    found = json.loads((tmp_path / "found").read_text())
    assert found["files"] == [0, 1, 2] and found["links"] == ["/dev/null"] * 2
    assert (
        found["group"]
        and not found["blocked"]
        and found["words"][0] == "--rank=1"
        and found["words"][-1] == "a.fdy"
    )
    assert found["words"][4].startswith("--parent=")


def test_a_fork_that_fails_says_why_and_ends(tmp_path: Path) -> None:
    done = run(
        "def fail(words):\n    raise OSError('no such thing')\n"
        "begin.main = fail\n"
        "print(spawn.spawn('a.fdy', 2, fork=True).processes[1].wait())",
        tmp_path,
    )
    assert done.stdout == "1\n" and done.stderr.endswith("OSError: no such thing\n")


def test_a_fork_is_waited_for_no_longer_than_asked_and_killed(tmp_path: Path) -> None:
    done = run(
        "begin.main = lambda words: signal.pause()\n"
        "forked = spawn.spawn('a.fdy', 2, fork=True).processes[1]\n"
        "try:\n    forked.wait(0.05)\n"
        "except subprocess.TimeoutExpired:\n    print(forked.poll())\n"
        "forked.kill()\nprint(forked.wait())",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("None\n-9\n", "")


def test_beside_other_threads_nothing_is_forked(tmp_path: Path) -> None:
    done = run(
        "threading.Thread(target=signal.pause, daemon=True).start()\n"
        "spawn._process = lambda words: print('a process', words[0])\n"
        "spawn.spawn('a.fdy', 3, fork=True)",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("a process --rank=1\na process --rank=2\n", "")


def test_a_fork_of_what_has_ended_ends_without_a_word(tmp_path: Path) -> None:
    done = run(
        "parent, fork = os.getpid(), os.fork\n"
        "def late():\n"
        "    if pid := fork():\n        return pid\n"
        "    while os.getppid() == parent:\n        pass\n"
        "    return 0\n"
        "os.fork, begin.main = late, main\n"
        "spawn.spawn('a.fdy', 2, fork=True)\n"
        "os._exit(7)",
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (7, "")


_INTERRUPTED = """
forks, fork = [], os.fork

def interrupted():
    forks.append(fork())
    if len(forks) == 2 and (forks[1] == 0) is FORK:
        signal.raise_signal(signal.SIGINT)
    return forks[-1]

os.fork = interrupted
begin.main = lambda words: signal.sigtimedwait([signal.SIGUSR1], 1)
"""


def test_ctrl_c_at_a_fork_is_for_the_command(tmp_path: Path) -> None:
    done = run(
        _INTERRUPTED.replace("FORK", "True")
        + "forked = spawn.spawn('a.fdy', 3, fork=True).processes\n"
        "print(forked[2].wait(30), forked[1].wait(30))",  # neither is killed
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("1 1\n", "")


def test_ctrl_c_in_the_command_comes_through_and_ends_those_it_knows(tmp_path: Path) -> None:
    done = run(
        _INTERRUPTED.replace("FORK", "False") + "try:\n    spawn.spawn('a.fdy', 3, fork=True)\n"
        "except KeyboardInterrupt:\n    print(len(forks), os.path.exists(f'/proc/{forks[0]}'))\n"
        "os._exit(0)",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("2 False\n", "")


def test_how_a_fork_ended_is_known_where_the_caller_ignores_that(tmp_path: Path) -> None:
    done = run(
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "begin.main = lambda words: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "print(spawn.spawn('a.fdy', 2, fork=True).processes[1].wait(30))",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("-11\n", "")


def test_a_fork_whose_end_somebody_else_has_asked_for(tmp_path: Path) -> None:
    done = run(
        "forked = spawn.spawn('a.fdy', 2, fork=True).processes[1]\n"
        "os.wait()\n"
        "forked.kill()\nprint(forked.poll(), forked.wait())",
        tmp_path / "found",
    )
    assert (done.stdout, done.stderr) == ("0 0\n", "")


def test_beside_a_driver_nothing_is_forked(tmp_path: Path) -> None:
    """A library that was imported may have started it without a thread."""
    (tmp_path / "libcuda.so.1").write_bytes(bytes(4096))
    done = run(
        "import mmap\n"
        "with open(path, 'rb') as file:\n"
        "    loaded = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "spawn._process = lambda words: print('a process', words[0])\n"
        "spawn.spawn('a.fdy', 2, fork=True)",
        tmp_path / "libcuda.so.1",
    )
    assert (done.stdout, done.stderr) == ("a process --rank=1\n", "")


def test_without_proc_nothing_is_forked(tmp_path: Path) -> None:
    done = run(
        "def none(path, *_):\n    raise FileNotFoundError(path)\n"
        "os.listdir = spawn.open = none\n"
        "spawn._process = lambda words: print('a process', words[0])\n"
        "spawn.spawn('a.fdy', 2, fork=True)",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("a process --rank=1\n", "")
