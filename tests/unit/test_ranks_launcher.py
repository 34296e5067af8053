"""What a launcher's variables say of this process, and what the commands ask for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from foundryrt.errors import RankLost, UsageError
from foundryrt.ranks import command
from foundryrt.ranks.asked import AskedRanks, begun
from foundryrt.ranks.launcher import place

TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0", "SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-1@1",
}  # fmt: skip
MPI = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALNRANKS": "3"}


@pytest.mark.parametrize(
    ("environment", "rank", "world", "launcher"),
    [
        (TORCHRUN, 1, 4, "torchrun"),
        (SLURM, 3, 4, "Slurm"),
        (OPEN_MPI, 0, 2, "Open MPI"),
        (MPI, 2, 3, "MPI"),
        (SLURM | MPI, 3, 4, "Slurm"),  # srun speaks PMI
        (SLURM | TORCHRUN, 1, 4, "torchrun"),  # torchrun within a step
    ],
)
def test_each_launcher_is_known(environment, rank, world, launcher) -> None:
    found = place(environment)
    assert found is not None
    assert (found.rank, found.world, found.launcher) == (rank, world, launcher)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "1"},
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
        {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"},
    ],
)
def test_a_process_that_is_one_alone(environment) -> None:
    assert place(environment) is None


@pytest.mark.parametrize("shell", [[], ["sh", "-c", '"$@"; exit', "sh"]])
def test_ranks_meet_whatever_script_starts_them(shell: list[str]) -> None:
    code = "import os; from foundryrt.ranks.launcher import place; print(place(os.environ).meeting)"
    names = {
        subprocess.check_output(
            [*start, sys.executable, "-c", code], env=os.environ | MPI | {"PMI_RANK": rank}
        )
        for rank, start in (("0", shell), ("1", shell * 2), ("2", []))
    }
    assert len(names) == 1


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM, OPEN_MPI, MPI])
def test_ranks_of_one_start_meet_and_others_do_not(environment) -> None:
    name = next(iter(environment))
    first = place(environment | {name: "0"})
    assert first is not None and first.meeting == place(environment | {name: "1"}).meeting
    others = [
        place(environment | change)
        for change in (
            {"MASTER_PORT": "1"}, {"SLURM_STEP_ID": "1"}, {"PMIX_NAMESPACE": "prterun-2@1"},
        )
        if change.keys() & environment.keys()
    ]  # fmt: skip
    assert all(other.meeting != first.meeting for other in others)
    assert len(others) == (environment is not MPI)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, "torchrun put the 4 ranks on several nodes"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "on several nodes"),
        (SLURM | {"SLURM_STEP_NUM_NODES": "2"}, "on several nodes"),
        (TORCHRUN | {"RANK": "4"}, "RANK must be below WORLD_SIZE"),
        (TORCHRUN | {"WORLD_SIZE": "four"}, "WORLD_SIZE=four: a launcher"),
        (TORCHRUN | {"RANK": "-1"}, "RANK=-1: a launcher"),
    ],
)
def test_what_contradicts_itself_is_named(environment, message) -> None:
    with pytest.raises(UsageError, match=message):
        place(environment)


@pytest.fixture
def bare(monkeypatch) -> None:
    for name in (*TORCHRUN, *SLURM, *OPEN_MPI, *MPI, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "tp", "device"),
    [
        (["a.fdy", "--tp", "2"], 2, 0),
        (["--tp=4", "a.fdy", "--devices=3,2,1,0"], 4, 3),
        (["a.fdy", "--tp", "2", "--tp", "3", "--devices", "5,1,0"], 3, 5),
        (["a.fdy", "--tp"], None, 0),
        (["a.fdy", "--tp", "many", "--devices", "x"], None, 0),
    ],
)
def test_what_a_command_asks_for(bare, words, tp, device) -> None:
    asked = AskedRanks.of(words)
    assert (asked.tp, asked.device()) == (tp, device)


@pytest.mark.parametrize("over", [False, True])
def test_a_command_that_does_not_notice_a_loss_is_ended(over, monkeypatch, capsys) -> None:
    codes, ended = [], threading.Event()
    ended.set() if over else ended.clear()
    monkeypatch.setattr(command, "_SECONDS", 0.01)
    monkeypatch.setattr(command.os, "_exit", codes.append)
    followers = SimpleNamespace(lost=RankLost("rank 1 is gone"))
    command._end_soon(followers, False, ended)  # type: ignore[arg-type]
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert codes == ([] if over else [1])
    assert capsys.readouterr().err == ("" if over else "error: rank 1 is gone\n")


def test_the_gpu_of_a_launched_rank(bare, monkeypatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    # Without --tp the bundle may be one for a process alone.
    assert AskedRanks.of(["a.fdy"]).device() is None
    assert AskedRanks.of(["a.fdy", "--tp", "4"]).device() == 1
    assert AskedRanks.of(["a.fdy", "--tp", "4", "--devices", "0,3,1,2"]).device() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
    assert AskedRanks.of(["a.fdy", "--tp", "4"]).device() == 0
    AskedRanks.of(["a.fdy", "--tp", "4"]).begin("a.fdy")
    assert not begun


_FIRST = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from foundryrt import start
from foundryrt.cuda import early
from foundryrt.ranks import begin, spawn

def seen(*what):
    print(*what, *({"dataclasses", "inspect", "json", "socket", "typing"} & set(sys.modules)))

start.on_device = begin.on_device = lambda path: True
early.begin = lambda device: seen("driver", device)
spawn._forked = lambda words: seen(*words[:3])
"""
_LEADS = """
sys.modules["foundryrt.cli"] = None
sys.argv[1:] = ["run", "a.fdy", "--tp", "3", "--devices", "5,6,7"]
try:
    start.main()
except ImportError:
    pass
"""
_FOLLOWS = """
sys.modules["foundryrt.ranks.follow"] = None
try:
    begin.main(["--rank=1", "--world=3", "--device=6", "--meeting=x", "a.fdy"])
except ImportError:
    pass
"""


_TWO = ["--rank=1 --world=3 --device=6", "--rank=2 --world=3 --device=7", "driver 5"]


@pytest.mark.parametrize(
    ("program", "events"),
    [(_LEADS, _TWO), (_FOLLOWS, ["driver 6"])],
)
def test_drivers_start_before_anything_is_imported(program: str, events: list[str]) -> None:
    """A rank's own, and, by their processes, those of the others."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _FIRST + program, str(Path(__file__).parents[2])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == events
