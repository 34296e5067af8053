"""Points of a study: shared among processes, kept as they are finished, found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.link.profile import VEHICULAR_A, Profile
from otfs_pipeline.settings import Settings
from otfs_pipeline.study import command
from otfs_pipeline.study.journal import Journal
from otfs_pipeline.study.point import Point

LINK = Settings(grid="31x37", nu_p=30e3, guard=9, max_taps=64)
POINTS = [Point("estimation", LINK, VEHICULAR_A, (10.0, 20.0), 1, index) for index in range(5)]
SMALL = ["--link", "31x37@30e3", "--frames", "4", "--snr", "20", "--iterations", "8",
         "--truncation", "0.99", "--pilot-link", "64x32", "--pilot-frames", "2",
         "--pilot-snr", "10", "20", "--antennas", "1", "2"]  # fmt: skip


def study(output: Path, *more: str) -> dict:
    assert command.main([*SMALL, "--output", str(output), *more]) == 0
    return {k: v for k, v in json.loads(output.read_text()).items() if k != "date"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in this process."""
    output = tmp_path_factory.mktemp("study") / "alone.json"
    study(output, "--jobs", "1")
    return output


def points_of(output: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in Path(f"{output}.points").read_text().splitlines()]
    return {line["point"]: line["errors"] for line in lines}


def test_several_processes_give_the_same(alone: Path, tmp_path: Path) -> None:
    assert study(tmp_path / "two.json", "--jobs", "2") == study(alone, "--jobs", "1")
    assert points_of(tmp_path / "two.json") == points_of(alone)
    antennas = [e["antennas"] for e in json.loads(alone.read_text())["embedded_pilot"]]
    assert antennas == [1, 2]


def test_a_dask_cluster_gives_the_same(alone: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        found = study(
            tmp_path / "dask.json", "--backend", "dask", "--cluster", cluster.scheduler_address
        )
    assert found == study(alone, "--jobs", "1")


def test_a_backend_that_tells_nothing_before_its_end_works_in_rounds() -> None:
    # Ray's backend is made of this one. It forks, which a process with threads had better not.
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import joblib
from test_otfs_study_points import POINTS
from otfs_pipeline.study import workers
workers._ROUND = 1
points = {{point.key: point for point in POINTS}}
with joblib.parallel_config(backend="multiprocessing"):
    found = dict(workers.results(points, 2))
assert found == {{key: point.run() for key, point in points.items()}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_points_that_are_there_are_not_run_again(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "again.json"
    text = Path(f"{alone}.points").read_text()
    Path(f"{output}.points").write_text(text)
    monkeypatch.setattr(Point, "run", lambda self: pytest.fail(f"ran {self}"))
    again = study(output, "--jobs", "1")
    assert again == {k: v for k, v in json.loads(alone.read_text()).items() if k != "date"}
    assert Path(f"{output}.points").read_text() == text


def test_more_frames_go_on_from_those_there_are(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, ran = tmp_path / "more.json", []
    Path(f"{output}.points").write_text(Path(f"{alone}.points").read_text())
    run = Point.run
    monkeypatch.setattr(Point, "run", lambda self: ran.append(self.index) or run(self))
    more = study(output, "--jobs", "1", "--pilot-frames", "3")
    assert ran == [2, 2, 2, 2] and more["embedded_pilot"][0]["frames"] == 3


def test_a_killed_study_goes_on(tmp_path: Path, alone: Path) -> None:
    output = tmp_path / "killed.json"
    kept = Path(f"{output}.points")
    child = subprocess.Popen(
        [sys.executable, "-m", "otfs_pipeline.study", *SMALL, "--jobs", "1",
         "--output", str(output)], stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while child.poll() is None and (not kept.exists() or kept.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = points_of(output)
    assert len(before) >= 3 and before.items() <= points_of(alone).items()
    kept.write_bytes(kept.read_bytes() + b'{"point": "half')
    assert study(output, "--jobs", "1") == study(alone, "--jobs", "1")
    assert points_of(output) == points_of(alone)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_study_that_is_ended_ends_its_processes(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "ended.json"
    kept = Path(f"{output}.points")
    child = subprocess.Popen(
        [sys.executable, "-m", "otfs_pipeline.study", "--link", "--pilot-link", "64x32",
         "--pilot-frames", "3000", "--jobs", "2", "--output", str(output)],
        start_new_session=True,
    )  # fmt: skip
    while child.poll() is None and not (kept.exists() and kept.stat().st_size):
        time.sleep(0.01)
    child.send_signal(number)
    assert child.wait(60) == code
    with pytest.raises(ProcessLookupError):
        for _ in range(500):
            os.killpg(child.pid, 0)
            time.sleep(0.02)
    assert points_of(output) and not output.exists()


@given(st.data())
def test_a_journal_that_was_cut_anywhere_holds_whole_points(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "points"
    errors = data.draw(
        st.lists(
            st.dictionaries(st.text(max_size=5), st.lists(st.floats(0, 1), max_size=3), max_size=3),
            max_size=4,
        )
    )
    journal = Journal(path)
    for index, one in enumerate(errors):
        journal.add(str(index), one)
    journal.close()
    text = path.read_bytes()
    cut = text[: data.draw(st.integers(0, len(text)))]
    path.write_bytes(cut)
    journal = Journal(path)
    whole = cut.count(b"\n")
    assert journal.points == {str(i): one for i, one in enumerate(errors[:whole])}
    journal.add("last", {"a": [0.5]})
    journal.close()
    assert list(Journal(path).points) == [*map(str, range(whole)), "last"]


@pytest.mark.parametrize(
    "line",
    ["[]", "no json", '{"points": "a"}', '{"errors": {}, "point": []}',
     '{"errors": [1.0], "point": "a"}', '{"errors": {"b": ["c"]}, "point": "a"}'],
)  # fmt: skip
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "points"
    path.write_text(f'{{"point": "a", "errors": {{}}}}\n{line}\n')
    text = path.read_text()
    with pytest.raises(FoundryError, match="line 2 is no point"):
        Journal(path)
    assert path.read_text() == text
    path.write_text(line)
    with pytest.raises(FoundryError, match="line 1 is no point"):
        Journal(path)
    assert path.read_text() == line


def test_one_study_writes_a_file_at_a_time(tmp_path: Path) -> None:
    first = Journal(tmp_path / "points")
    with pytest.raises(UsageError, match="another study writes it"):
        Journal(tmp_path / "points")
    first.close()
    Journal(tmp_path / "points").close()
    with pytest.raises(UsageError, match="No such file"):
        Journal(tmp_path / "nowhere" / "points")


def test_a_points_key_is_of_all_that_its_result_depends_on() -> None:
    point = POINTS[0]
    paths = (VEHICULAR_A.delay, VEHICULAR_A.power, VEHICULAR_A.doppler)
    renamed = replace(point, profile=Profile("other name", *paths))
    assert renamed.key == replace(point).key == point.key
    moved = Profile("vehicular-a", VEHICULAR_A.delay + 1e-9, *paths[1:])
    others = [
        replace(point, **change)
        for change in ({"index": 1}, {"seed": 2}, {"kind": "equalizers"}, {"snrs": (10.0,)},
                       {"link": replace(LINK, antennas=2)}, {"iterations": (1,)},
                       {"fractions": (0.5,)}, {"profile": moved})
    ]  # fmt: skip
    assert len({one.key for one in [point, *others]}) == len(others) + 1


def test_a_points_result_is_of_its_seed_and_index_alone() -> None:
    np.random.default_rng(0).random()
    first, again, other = (POINTS[i].run() for i in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--cluster", "tcp://nowhere:1"], 2, "--cluster needs --backend dask or ray"),
        (["--backend", "ray"], 1, "pip install ray"),
        (["--antennas", "3"], 2, "antennas 3: use 1 or 2 or 4"),
    ],
)
def test_what_cannot_be_shared(
    arguments: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main([*SMALL, *arguments]) == code
    assert reason in capsys.readouterr().err


def test_missing_packages_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert command.main(SMALL) == 1
    assert "pip install 'foundry-graphs[otfs]'" in capsys.readouterr().err
