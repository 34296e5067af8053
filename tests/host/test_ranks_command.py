"""`foundryrt run` and `serve` with several ranks: results, launchers, signals, and no orphans."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.host.rank_processes import (
    COMMAND,
    ROOT,
    WORKLOAD,
    alive,
    followers,
    record,
    start,
)

TOTAL = [10 * (2 * x + 1) for x in range(5)]
"""After 10 launches with two ranks."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(record(tmp_path_factory.mktemp("ranks") / "two.fdy", 2))


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[str, str, int]:
    out, err = process.communicate(timeout=seconds)
    return out, err, process.returncode


def running(
    words: list[str], folder: Path, **environment: str
) -> tuple[subprocess.Popen[str], dict[int, int]]:
    """A command that has launched, and its other ranks."""
    process = start(words, folder, **environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process, followers(process.pid)


def wait_for_end(processes: dict[int, int]) -> None:
    while any(map(alive, processes.values())):
        time.sleep(0.05)


def test_a_run_of_two_ranks(bundle, tmp_path) -> None:
    out, err, code = ended(start(["run", bundle, "--tp", "2", "--json"], tmp_path))
    assert code == 0, err
    assert json.loads(out.removeprefix("ready\n")) == {"total": TOTAL}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the bundle was captured for 2 ranks: say --tp 2"),
        (["--tp", "3"], "--tp 3: the bundle was captured for 2 ranks: say --tp 2"),
        (["--tp", "1"], "--tp 1: the bundle was captured for 2 ranks: say --tp 2"),
        (["--tp", "-2"], "the bundle was captured for 2 ranks: say --tp 2\n"),
        (["--tp", "2", "--devices", "0,0"], "--devices: a host bundle uses no GPU"),
        (["--tp", "2", "--devices", "a"], "--devices a: give GPUs by number"),
        (["--tp", "2", "--base", "0x640000000000"], "no base, place or grow"),
        (["--tp", "2", "--colour", "red"], "no option --colour"),
    ],
)
def test_wrong_usage_leaves_no_rank(bundle, tmp_path, words, message) -> None:
    for command in ("run", "serve"):
        process = start([command, bundle, *words], tmp_path)
        found = followers(process.pid)
        _, err, code = ended(process)
        assert code == 2 and message in err and err.count("\n") == 1
        wait_for_end(found)


def test_a_bundle_of_one_rank(tmp_path) -> None:
    plain = str(Path(__file__).parents[2] / "artifacts" / "v1-host-steps.fdy")
    _, err, code = ended(start(["run", plain, "--tp", "2"], tmp_path))
    assert code == 2
    assert "--tp 2: the bundle was captured for 1 rank: leave it out, or capture" in err


@pytest.mark.parametrize("command", ["run", "serve"])
def test_a_killed_rank_ends_the_command(bundle, tmp_path, command) -> None:
    words = [command, bundle, "--tp", "2", *(["--wait"] if command == "run" else [])]
    process, found = running(words, tmp_path)
    os.kill(found[1], signal.SIGKILL)
    out, err, code = ended(process)
    assert code == 1
    assert (
        err == f"error: rank 1 (process {found[1]}) was killed by SIGKILL; start all ranks again\n"
    )
    # A server ends as it does when it is told to.
    assert out == ("stopped\n" if command == "serve" else "")


def test_the_benchmark_of_killed_ranks(bundle) -> None:
    script = ROOT / "benchmarks" / "parallel" / "steps" / "killed.py"
    done = subprocess.run(
        [sys.executable, script, bundle, "2"], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed_s"] > 0 and "rank 1" in found["said"] and "SIGKILL" in found["said"]


def test_a_rank_that_is_killed_before_there_is_a_server(bundle, tmp_path) -> None:
    """Nothing handles SIGTERM then, by which a server is told."""
    process = start(["serve", bundle, "--tp", "2"], tmp_path)
    while not (found := followers(process.pid)):
        time.sleep(0.02)
    while "libtorch" not in Path(f"/proc/{found[1]}/maps").read_text():  # all have met by then
        time.sleep(0.02)
    os.kill(found[1], signal.SIGKILL)
    out, err, code = ended(process)
    assert (out, code) == ("", 1)
    assert f"error: rank 1 (process {found[1]}) was killed by SIGKILL" in err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ranks_end_with_the_first(bundle, tmp_path, number) -> None:
    process, found = running(["run", bundle, "--tp", "2", "--wait"], tmp_path)
    assert set(found) == {1}
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, err, code = ended(process)
    assert code == (130 if number == signal.SIGINT else -number)
    assert "rank" not in err and "Traceback" not in err
    wait_for_end(found)


def test_a_server_that_is_told_to_stop(bundle, tmp_path) -> None:
    process, found = running(["serve", bundle, "--tp", "2"], tmp_path)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("stopped\n", "", 0)
    assert not any(map(alive, found.values()))


def test_a_process_that_stands_by_runs_ranks_too(bundle, tmp_path) -> None:
    place = {"FOUNDRY_STANDBY": str(tmp_path / "s.sock")}
    standby = subprocess.Popen(
        [*COMMAND, "standby", "--host"], stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | place,
    )  # fmt: skip
    assert standby.stderr is not None and "standing by at" in standby.stderr.readline()
    for words in (["--json"], ["--wait"]):
        process = start(["run", bundle, "--tp", "2", "--standby", *words], tmp_path, **place)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        found = followers(standby.pid)
        if words == ["--wait"]:
            assert set(found) == {1}
            os.kill(found[1], signal.SIGKILL)
        out, err, code = ended(process)
        assert code == (words == ["--wait"]), err
        assert json.loads(out) == {"total": TOTAL} if not code else "killed by SIGKILL" in err
    standby.send_signal(signal.SIGINT)
    standby.communicate(timeout=60)
    assert standby.returncode == 130


def launched(
    bundle: str, folder: Path, rank: int, *words: str, **changes: str
) -> subprocess.Popen[str]:
    """A command as torchrun starts it."""
    environment = {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511", "TORCHELASTIC_RUN_ID": str(folder),
    }  # fmt: skip
    return start(["run", bundle, *words], folder, **environment | changes)


def test_torchrun_starts_the_ranks(bundle, tmp_path) -> None:
    (tmp_path / "work.py").write_text(WORKLOAD)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python",
        *COMMAND, "run", bundle, "--workload", str(tmp_path / "work.py"), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.removeprefix("ready\n")) == {"total": TOTAL}


@pytest.mark.parametrize("tp", [[], ["--tp", "2"]])
def test_ranks_that_a_launcher_starts(bundle, tmp_path, tp) -> None:
    second = launched(bundle, tmp_path, 1, *tp)
    out, err, code = ended(launched(bundle, tmp_path, 0, "--json", *tp))
    assert code == 0, err
    assert json.loads(out.removeprefix("ready\n")) == {"total": TOTAL}
    assert ended(second) == ("", "", 0)


def test_a_launched_rank_ends_with_the_first(bundle, tmp_path) -> None:
    second, first = (launched(bundle, tmp_path, rank, "--wait") for rank in (1, 0))
    assert first.stdout.readline() == "ready\n"
    second.send_signal(signal.SIGTERM)  # as launchers do to all: the first rank decides
    second.send_signal(signal.SIGINT)
    first.kill()
    assert ended(second) == ("", "error: rank 1: rank 0 has ended\n", 1)
    ended(first)


def test_launched_ranks_with_other_bundles(bundle, tmp_path) -> None:
    other = str(record(tmp_path / "other.fdy", 2, extra=1.0))
    second = launched(other, tmp_path, 1)
    _, err, code = ended(launched(bundle, tmp_path, 0))
    message = f"error: rank 1 (process {second.pid}) opened another bundle"
    assert code == 1 and err.startswith(message)
    _, err, code = ended(second)
    assert code == 1 and err.startswith(message)


def test_a_launched_rank_that_does_not_come(bundle, tmp_path) -> None:
    for rank, missing in ((0, 1), (1, 0)):
        process = launched(bundle, tmp_path, rank, FOUNDRY_RANK_TIMEOUT="0.5")
        _, err, code = ended(process)
        assert code == 1 and f"rank {missing}" in err and "did not come within 0.5 s" in err


def test_launchers_that_start_other_numbers_of_ranks(bundle, tmp_path) -> None:
    process = launched(bundle, tmp_path, 0, WORLD_SIZE="3", LOCAL_WORLD_SIZE="3")
    _, err, code = ended(process)
    assert code == 2 and "torchrun started 3 ranks: the bundle was captured for 2 ranks" in err
    process = launched(bundle, tmp_path, 0, WORLD_SIZE="4")
    _, err, code = ended(process)
    assert code == 2 and "on several nodes" in err
