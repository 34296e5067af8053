"""Weights of a session of several ranks: who finds what is wrong with a file, and what follows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from foundryc.recorder import Recorder
from foundryc.weights import TensorFile, WeightSlice, whole
from foundryrt import Session, same_weights
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError, RankLost
from foundryrt.ranks.followers import Followers
from foundryrt.sharing import digesters
from foundryrt.weight_files import map_file
from foundryrt.weights import WeightsChanged, WeightsMissing
from tests.host import rank_processes as processes

WORLD, ROWS, WIDTH = 3, 5, 4
NAMES = ("down", "gate", "norm", "table")
VALUES = {
    name: np.random.default_rng(seed).standard_normal((ROWS, WORLD * WIDTH)).astype(np.float32)
    for seed, name in enumerate(NAMES)
}


def part(name: str, rank: int) -> np.ndarray:
    """Columns of `down` and `gate` for each rank, all of the others."""
    columns = slice(rank * WIDTH, (rank + 1) * WIDTH)
    return VALUES[name][:, columns] if name in ("down", "gate") else VALUES[name]


def own(rank: int) -> np.ndarray:
    return np.concatenate([part(name, rank).ravel() for name in NAMES])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Its graph `weights` gives what each rank has."""
    file = tmp_path / "w.safetensors"
    save_file(VALUES, file)
    stored = TensorFile(file).tensors
    with Recorder(target="host", workload="ranks", settings={}) as recorder:
        ranks = recorder.ranks(WORLD, 4096)
        tensors = []
        for name in NAMES:
            cut = [
                WeightSlice(stored[name], ROWS, WIDTH, source_column=rank * WIDTH, rank=rank)
                for rank in range(WORLD)
            ]
            slices = cut if part(name, 0).shape[1] == WIDTH else whole(stored[name])
            tensor = torch.from_numpy(part(name, 0).copy())
            tensors.append(recorder.register(name, tensor, role="weight", slices=slices))
        with recorder.graph("weights") as graph:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            graph.output("parts", ranks.all_gather(flat))
        recorder.save(tmp_path / "ranks.fdy")
    return tmp_path / "ranks.fdy"


@contextmanager
def opened(path: Path, load_weights: bool = True) -> Iterator[Session]:
    with (
        Followers.start(path, WORLD) as followers,
        Session.open(path, followers=followers, load_weights=load_weights) as session,
    ):
        yield session


def gathered(session: Session) -> np.ndarray:
    graph = session.graph("weights")
    graph.launch()
    return graph.read("parts")


def damage(path: Path, name: str) -> int:
    """Change the last byte of a tensor; the rank that is to find it."""
    file = path.with_name("w.safetensors")
    stored = TensorFile(file).tensors[name]
    with open(file, "r+b") as changed:
        changed.seek(stored.offset + stored.length - 1)
        changed.write(b"\x01")
    with Bundle.open(path) as found:
        sources = [source.name for source in found.manifest.weights.sources]
        return digesters(found.manifest)[sources.index(name)]


def test_all_ranks_have_their_parts(bundle: Path) -> None:
    wanted = [own(rank) for rank in range(WORLD)]
    with opened(bundle) as session:
        np.testing.assert_array_equal(gathered(session), wanted)
        session.load_weights()
        np.testing.assert_array_equal(gathered(session), wanted)
    with opened(bundle, load_weights=False) as session:
        assert not gathered(session).any()
        session.load_weights()
        np.testing.assert_array_equal(gathered(session), wanted)


@pytest.mark.parametrize("name", ["down", "norm"])
def test_a_wrong_byte_ends_all_ranks_and_names_the_file(bundle: Path, name: str) -> None:
    finder = damage(bundle, name)
    kind, who = (RankLost, rf"rank {finder} \(process \d+\) failed: ") if finder else (
        WeightsChanged, "^"
    )  # fmt: skip
    wrong = rf"{who}weights: '{name}' in .*w\.safetensors is not what"
    with pytest.raises(kind, match=wrong), opened(bundle):
        pytest.fail("open, though a digest was wrong")
    assert not processes.followers(os.getpid())


def test_each_rank_finds_something(bundle: Path) -> None:
    """Those above are found by rank 0 and by another one."""
    assert {name: damage(bundle, name) for name in NAMES} == {
        "down": 0, "gate": 1, "norm": 2, "table": 0
    }  # fmt: skip


@pytest.mark.parametrize("name", ["down", "norm"])
def test_a_wrong_byte_is_found_when_weights_are_loaded_again(bundle: Path, name: str) -> None:
    with opened(bundle) as session:
        finder = damage(bundle, name)
        session.load_weights(check=False)  # takes it as it is
        assert not np.array_equal(gathered(session), [own(rank) for rank in range(WORLD)])
        with pytest.raises(FoundryError, match=rf"'{name}' in .*w\.safetensors is not what"):
            session.load_weights()
        with pytest.raises(RankLost, match=f"rank {finder} "):
            session.graph("weights").launch()


def test_a_file_that_is_not_there_costs_no_session(bundle: Path) -> None:
    file = bundle.with_name("w.safetensors")
    with opened(bundle, load_weights=False) as session:
        file.rename(file.with_suffix(".away"))
        with pytest.raises(WeightsMissing, match=r"w\.safetensors is not there"):
            session.load_weights()
        file.with_suffix(".away").rename(file)
        session.load_weights()
        np.testing.assert_array_equal(gathered(session), [own(rank) for rank in range(WORLD)])


@pytest.fixture
def by_row(bundle: Path) -> Path:
    """A bundle of the same file for as many ranks as tensors have rows, each of which reads one."""
    stored = TensorFile(bundle.with_name("w.safetensors")).tensors
    path = bundle.with_name("by_row.fdy")
    with Recorder(target="host", workload="ranks", settings={}) as recorder:
        ranks = recorder.ranks(ROWS, 4096)
        for name, values in VALUES.items():
            slices = [
                WeightSlice(stored[name], 1, WORLD * WIDTH, source_row=rank, rank=rank)
                for rank in range(ROWS)
            ]
            tensor = torch.from_numpy(values[:1].copy())
            recorder.register(name, tensor, role="weight", slices=slices)
        with recorder.graph("nothing") as graph:
            graph.output("zeros", ranks.all_gather(torch.zeros(1)))
        recorder.save(path)
    return path


def test_weights_that_a_session_has_compared_are_not_read_again(
    bundle: Path, by_row: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a bundle of other parts. They are if they were loaded unseen, or the file is another."""
    read = []

    def noted(path: Path) -> memoryview:
        read.append(path)
        return map_file(path)

    monkeypatch.setattr(same_weights, "map_file", noted)
    file = bundle.with_name("w.safetensors")

    def reads(session: Session) -> bool:
        read.clear()
        session.check_weights(other)
        return bool(read)

    with Bundle.open(by_row) as other:
        with opened(bundle, load_weights=False) as session:
            assert reads(session)
            session.load_weights()
            assert not reads(session)
            session.load_weights(check=False)
            assert reads(session)
        with opened(bundle) as session:
            assert not reads(session)
            file.replace(file.with_suffix(".away"))
            file.write_bytes(file.with_suffix(".away").read_bytes())
            assert reads(session)
        with Session.open(bundle) as alone:
            assert reads(alone)


def test_what_a_session_has_compared_is_known_to_those_after_it(
    bundle: Path, by_row: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ranks that took its place and compared again, and to a bundle over the same weights."""
    monkeypatch.setattr(same_weights, "map_file", lambda _: pytest.fail("a file was read"))
    one = bundle.with_name("one.fdy")
    stored = TensorFile(bundle.with_name("w.safetensors")).tensors
    with Recorder(target="host", workload="one", settings={}) as recorder:
        for name, values in VALUES.items():
            tensor = torch.from_numpy(values.copy())
            recorder.register(name, tensor, role="weight", slices=whole(stored[name]))
        with recorder.graph("nothing") as graph:
            graph.output("zeros", torch.zeros(1) + 0)
        recorder.save(one)
    with Session.open(one) as first, first.beside(one, lambda *_: ["weights"]) as second:
        with Bundle.open(by_row) as rows:
            second.check_weights(rows)
        with (
            Followers.start(by_row, ROWS) as followers,
            second.beside(by_row, lambda *_: [], lambda _: followers) as third,
            Bundle.open(one) as again,
        ):
            third.check_weights(again)


@pytest.mark.parametrize(
    ("command", "name"), [("run", "norm"), ("serve", "down"), ("serve", "norm")]
)
def test_a_command_says_which_file_it_is(bundle: Path, tmp_path: Path, command, name) -> None:
    finder = damage(bundle, name)
    process = processes.start([command, str(bundle), "--tp", str(WORLD)], tmp_path)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 1)
    assert err.count("\n") == 1, err
    assert f"'{name}' in {bundle.with_name('w.safetensors')} is" in err
    assert ("rank" in err.partition("weights:")[0]) == (finder > 0)
