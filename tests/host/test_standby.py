"""A process that stands by: commands run in it as they would by themselves, one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from foundryrt.start import main; main()")
BUNDLE = ROOT / "artifacts" / "v1-host-steps.fdy"
WORKLOAD = """
import gc, os, sys, time
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Options:
    wait: float = 0
    fail: bool = False
    gone: str = ""

class Cycle:
    def __init__(self, gone):
        self.itself, self.gone = self, Path(gone)

    def __del__(self):
        self.gone.touch()

def run(session, options, json):
    if options.gone:
        Cycle(options.gone)
        gc.freeze()
    print("ready in", os.getcwd(), os.environ.get("COLOUR"), os.getpid(), flush=True)
    if options.wait:
        time.sleep(options.wait)
    if options.fail:
        raise RuntimeError("this workload fails")
    print("read:", sys.stdin.read(), file=sys.stderr)
    return {"graphs": len(session.graphs)}
"""


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Where a process stands by, and its number."""
    path = tmp_path_factory.mktemp("standby") / "s.sock"
    process = subprocess.Popen(
        [*COMMAND, "standby", "--host", "--socket", str(path), "--bundle", str(BUNDLE)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stderr is not None
    said = process.stderr.readline()
    assert f"standing by at {path}: " in said and "torch" in said
    assert said.endswith(f"what {BUNDLE} needs\n")
    yield path, process.pid
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert not path.exists()


@pytest.fixture
def start(socket, tmp_path):
    """Starts a command that is handed over, in a folder of its own."""
    workload = tmp_path / "work.py"
    workload.write_text(WORKLOAD)

    def call(*options: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, "run", str(BUNDLE), "--standby", "--workload", str(workload), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path,
            env=os.environ
            | {"FOUNDRY_STANDBY": str(socket[0]), "PYTHONPATH": str(ROOT)} | environment,
        )  # fmt: skip

    return call


def test_a_command_has_its_own_folder_environment_and_files(start, socket, tmp_path):
    for colour in ("red", "blue"):
        process = start("--json", COLOUR=colour)
        out, err = process.communicate(f"{colour} text", timeout=60)
        assert process.returncode == 0, err
        assert out.startswith(f"ready in {tmp_path} {colour} {socket[1]}\n")
        assert '"graphs": ' in out
        assert f"read: {colour} text" in err


def test_failures_and_wrong_usage_have_their_exit_codes(start):
    process = start("--fail")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "this workload fails" in err
    process = start("--colour", "red")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "colour" in err


def test_each_command_has_the_files_that_are_there(socket, tmp_path):
    text = (
        "import helper\nfrom dataclasses import dataclass\n@dataclass\nclass Options: pass\n"
        "def run(session, options, json): print(helper.VALUE)\n"
    )
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "work.py").write_text(text)
        (folder / "helper.py").write_text(f"VALUE = {value}")
        done = subprocess.run(
            [*COMMAND, "run", str(BUNDLE), "--standby", "--workload", str(folder / "work.py")],
            capture_output=True, text=True, cwd=tmp_path, timeout=60,
            env=os.environ
            | {"FOUNDRY_STANDBY": str(socket[0]), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert done.stdout == f"{value}\n", done.stderr


def test_what_a_command_leaves_in_cycles_is_freed_though_it_froze_them(start, tmp_path):
    process = start("--gone", str(tmp_path / "gone"))
    process.communicate("", timeout=60)
    assert process.returncode == 0 and (tmp_path / "gone").exists()


def test_one_command_at_a_time(start):
    first = start("--wait", "600")
    assert first.stdout.readline().startswith("ready")
    second = start()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1 and "is busy with another command" in err
    first.send_signal(signal.SIGINT)
    assert first.wait(20) == 130
    third = start()
    third.communicate("", timeout=60)
    assert third.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_ends_with_its_client(start, number):
    process = start("--wait", "600")
    assert process.stdout.readline().startswith("ready")
    process.send_signal(number)
    assert process.wait(20) == (143 if number == signal.SIGTERM else -9)
    for _ in range(100):
        process = start()
        _, err = process.communicate("", timeout=60)
        if process.returncode == 0:
            return
        assert "is busy" in err
        time.sleep(0.1)
    raise AssertionError("it did not end")


def test_settings_that_cannot_be_changed_any_more_are_named(start):
    process = start(CUDA_VISIBLE_DEVICES="7")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "CUDA_VISIBLE_DEVICES is 7 here and not set in the process that stands by" in err


def test_nobody_stands_by(start, tmp_path):
    process = start(FOUNDRY_STANDBY=str(tmp_path / "none"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "start one with foundryrt standby" in err


@pytest.mark.parametrize("bundle", ["{}/no.fdy", "file://{}/no.fdy"])
def test_a_bundle_that_cannot_be_opened_is_refused_at_the_start(tmp_path, bundle):
    path = tmp_path / "other.sock"
    done = subprocess.run(
        [*COMMAND, "standby", "--host", "--socket", path, "--bundle", bundle.format(tmp_path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2 and f"error: {tmp_path}/no.fdy: no such file" in done.stderr
    assert not path.exists()


def test_two_do_not_share_a_socket(socket):
    done = subprocess.run(
        [*COMMAND, "standby", "--host", "--socket", str(socket[0])],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and "a process stands by at" in done.stderr


JOB = """
import os, signal, socket, sys, time
from foundryrt.standby import wire
from foundryrt.standby.server import _execute, _Job

number = int(sys.argv[1])
here, client = socket.socketpair()
job = _Job(here, [os.dup(file) for file in range(3)], [], os.getcwd(), dict(os.environ))
"""
BEFORE = """
wire.send(client, "signal", str(number))
print(_execute(job, lambda: time.sleep(60)))
"""
BOTH = """
if not os.fork():
    time.sleep(float(sys.argv[2]))
    try:
        for each in (number, signal.SIGINT + signal.SIGTERM - number):
            wire.send(client, "signal", str(int(each)))
    except BrokenPipeError:
        pass  # the first has ended the command already
    os._exit(0)
time.sleep(0.3)
print(_execute(job, lambda: time.sleep(60)) in (130, 143))
"""
AFTER = """
class Why:
    def __str__(self):
        for _ in range(3):
            tell(number)
        time.sleep(0.2)
        return "the command has failed"

print(_execute(job, lambda: sys.exit(Why())))
"""
CLIENT = """
def tell(number):
    wire.send(client, "signal", str(number))
"""
OTHERS = "tell = signal.raise_signal"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_came_before_the_command_ends_the_command_alone(
    number: signal.Signals, code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB + BEFORE, str(int(number))],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{code}\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clients_signal_that_comes_as_its_command_ends_changes_nothing(
    number: signal.Signals,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB + CLIENT + AFTER, str(int(number))],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert done.stderr == "the command has failed\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
def test_a_signal_of_others_ends_the_process_also_as_a_command_ends(
    number: signal.Signals, code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB + OTHERS + AFTER, str(int(number))],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after", [0.0, 0.6])
def test_two_signals_of_a_client_at_once_end_its_command_alone(
    number: signal.Signals, after: float
) -> None:
    """Before the command begins, and within it."""
    done = subprocess.run(
        [sys.executable, "-c", JOB + BOTH, str(int(number)), str(after)],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
