"""Session and bundle contents on the host target."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundryc.recorder import Recorder
from foundryc.sign import create_key, sign
from foundryc.weights import TensorFile, whole
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import DTYPES, SEEN_AS
from foundryrt.convert import storage_dtype
from foundryrt.cuda.tensor import _TYPES
from foundryrt.errors import UsageError
from foundryrt.session import Session
from foundryrt.trust import NotSigned
from foundryrt.weights import WeightsChanged, WeightsMissing

VALUES = np.ones((4, 3), np.float32)


def save(path: Path, embed: bool = False, folder: Path | None = None, scale: float = 1.0) -> Path:
    """`step[batch]` doubles a counter and multiplies by weights, for batch 1, 2 and 4."""
    from safetensors.torch import save_file

    folder = folder or path.parent
    values = torch.arange(12.0).reshape(3, 4) * scale
    save_file({"w": values}, folder / "w.safetensors")
    stored = TensorFile(folder / "w.safetensors").tensors["w"]
    with Recorder("host", workload="demo", settings={"width": 3, "name": None}) as r:
        w = r.register("w", values, role="weight", slices=whole(stored))
        x = r.register("x", torch.ones(4, 3), role="input")
        half = r.register("half", torch.full((2,), 1.5, dtype=torch.bfloat16), role="input")
        count = r.register("count", torch.tensor([1, 2]), role="state")
        r.register("again", w, role="weight")
        r.attach("notes.txt", b"hello")
        for batch in (1, 2, 4):
            with r.graph("step", batch=batch, kind="plain") as g:
                count.mul_(2)
                g.output("y", (x[:batch] @ w + batch) * half.float().sum())
                g.output("next", count + 1)
        r.save(path, embed_weights=embed)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save(tmp_path / "demo.fdy")


def test_a_readback_keeps_what_its_start_found(bundle: Path) -> None:
    with Session.open(bundle) as session:
        graph = session.graph("step", batch=2, kind="plain")
        first, second = (graph.readback("next") for _ in range(2))
        for readback in (first, second):
            graph.launch()
            readback.start()
        assert not first.overlaps
        assert first.wait().tolist() == [3, 5] and second.wait().tolist() == [5, 9]


def test_graphs_are_ready_once_they_are_prepared(bundle: Path) -> None:
    with Session.open(bundle) as session:
        assert session.ready() == 0
        session.graph("step", batch=2, kind="plain").launch()
        assert session.ready() == session.ready("step", batch=2, kind="plain") == 1
        seen: list[tuple[int, int]] = []
        session.wait(lambda ready, total: seen.append((ready, total)))
        assert seen[-1] == (3, 3) and session.ready() == 3


def test_the_whole_interface(bundle: Path) -> None:
    with Session.open(bundle) as session:
        assert (session.workload, session.settings) == ("demo", {"width": 3, "name": None})
        assert session.graphs[1] == ("step", {"batch": 2, "kind": "plain"})
        assert session.file("notes.txt") == b"hello"
        # State begins as it was registered, not as recording left it.
        assert session.read("count").tolist() == [1, 2]
        assert session.read("x").tolist() == np.ones((4, 3)).tolist()
        graph = session.graph("step", batch=2, kind="plain")
        x = np.arange(12, dtype=np.float32).reshape(4, 3)
        session.write("x", x)
        graph.launch()
        w = np.arange(12, dtype=np.float32).reshape(3, 4)
        assert graph.read("y").tolist() == ((x[:2] @ w + 2) * 3).tolist()
        assert session.read("count").tolist() == [2, 4]
        session.tensor("count")[:] = 7
        graph.launch()
        assert graph.read("next").tolist() == [15, 15]
        assert session.tensor("half").dtype == np.uint16
        assert session.read("again").tolist() == w.tolist()


def test_outputs_outlive_other_graphs(bundle: Path) -> None:
    with Session.open(bundle) as session:
        graphs = [session.graph("step", batch=b, kind="plain") for b in (1, 2, 4)]
        expected = []
        for graph in graphs:
            graph.launch()
            expected.append(graph.read("y"))
        for graph, before in zip(graphs, expected, strict=True):
            assert graph.read("y").tolist() == before.tolist()


def test_graphs_of_several_sizes_share_a_template(bundle: Path) -> None:
    with Bundle.open(bundle) as opened:
        assert len(opened.manifest.templates) == 1
        assert [g.template for g in opened.manifest.graphs] == [0, 0, 0]
        assert len(opened.member(0).word) == 0
        assert 0 < len(opened.member(1).word) < len(opened.template(0).parameters)


def test_weights_come_from_the_users_files_or_the_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    bundle = save(tmp_path / "a.fdy", folder=folder)
    embedded = save(tmp_path / "b.fdy", embed=True, folder=folder)
    moved = tmp_path / "moved"
    folder.rename(moved)
    with pytest.raises(WeightsMissing, match=r"w\.safetensors"):
        Session.open(bundle)
    with Session.open(bundle, weights=moved) as a, Session.open(embedded) as b:
        assert (
            a.read("w").tolist()
            == b.read("w").tolist()
            == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        )


@pytest.mark.parametrize("behind", [False, True])
def test_zeros_cost_nothing(tmp_path: Path, behind: bool) -> None:
    with Recorder("host", workload="demo", settings={}) as r:
        cache = r.register("cache", torch.zeros(1 << 22), role="state")
        last = r.register("last", torch.tensor([2, 3]) if behind else torch.zeros(2), role="state")
        with r.graph("g"):
            cache.add_(1)
            last.add_(1)
        r.save(tmp_path / "zero.fdy")
    assert (tmp_path / "zero.fdy").stat().st_size < 1 << 16
    with Session.open(tmp_path / "zero.fdy") as session:
        session.graph("g").launch()
        assert session.tensor("cache")[[0, -1]].tolist() == [1, 1]
        assert session.read("last").tolist() == ([3, 4] if behind else [1, 1])


def test_threads_of_the_capture_are_used_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with Recorder("host", workload="demo", settings={}) as r:
            x = r.register("x", torch.randn(300_000), role="input")
            with r.graph("g") as g:
                g.output("sum", x.sum())
            expected = float(x.sum())
            r.save(tmp_path / "threads.fdy")
        torch.set_num_threads(1)
        with Session.open(tmp_path / "threads.fdy") as session:
            session.graph("g").launch()
            assert float(session.graph("g").read("sum")) == expected
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: s.graph("step", batch=3), r"no graph step\(batch=3\); there is step\(batch=1"),
        (lambda s: s.tensor("z"), "no tensor 'z'; there is again, count"),
        (lambda s: s.read("y"), r"graph step has one"),
        (lambda s: s.write("x", np.zeros((4, 3))), r"x is float32 \(4, 3\), not float64"),
        (lambda s: s.write("x", np.zeros((3, 4), np.float32)), r"not float32 \(3, 4\)"),
        (lambda s: s.file("other"), "notes.txt"),
        (lambda s: s.file_digest("other"), "notes.txt"),
        (lambda s: [s.close(), s.tensor("x")], "closed"),
        (lambda s: [s.close(), s.graph("step", batch=1, kind="plain")], "closed"),
        (lambda s: s.write("x", [[1], [1, 2]]), "x: no array can be made of the values"),
        (lambda s: s.prepare("step"), "graphs are named as in"),
        (lambda s: s.prepare([("step",)]), "graphs are named as in"),
        (lambda s: Session.open(s._bundle, first=[("step", {"batch": 1})]), "graphs are named"),
    ],
)
def test_wrong_use_says_what_there_is(bundle: Path, wrong: object, message: str) -> None:
    with Session.open(bundle) as session, pytest.raises(UsageError, match=message):
        wrong(session)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda g: g.pipeline("x", ["y"]), "'x': give a list of names"),
        (lambda g: g.pipeline(["x"], ["y"], lazy="y"), "'y': give a list of names"),
        (lambda g: g.pipeline(["x"], ["y"], depth=1.5), "depth is a float"),
        (lambda g: g.pipeline(["x"], ["y"]).staging("z"), "no input 'z'; the pipeline takes x"),
        (lambda g: g.pipeline(["x"], ["y"], 2).submit(2, {"x": VALUES}), "slot 2: .* 0 to 1"),
        (lambda g: g.pipeline(["x"], ["y"], 2).wait(-1), "slot -1: .* 0 to 1"),
        (lambda g: g.pipeline(["x"], ["y"]).submit(0, {"x": VALUES.tolist()}), "x: is a list"),
    ],
)
def test_wrong_use_of_a_pipeline(bundle: Path, wrong: object, message: str) -> None:
    with Session.open(bundle) as session, pytest.raises(UsageError, match=message):
        wrong(session.graph("step", batch=1, kind="plain"))  # type: ignore[operator]


def test_what_is_closed_says_so(bundle: Path) -> None:
    with Session.open(bundle) as session:
        graph = session.graph("step", batch=1, kind="plain")
        first, second = (graph.pipeline(["x"], ["y"]) for _ in "ab")
        first.close()
        for call in (lambda: first.submit(0, {"x": VALUES}), lambda: first.wait(0)):
            with pytest.raises(UsageError, match="the pipeline is closed"):
                call()
        second.submit(0, {"x": VALUES})
    with pytest.raises(UsageError, match="the session is closed"):
        second.submit(0, {"x": VALUES})


def test_a_launch_beside_which_the_session_is_closed_says_so(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foundryrt.host import replay

    prepare = replay.prepare
    session = Session.open(bundle)

    def closing(*arguments: Any) -> replay.Tape:
        session.close()
        return prepare(*arguments)

    monkeypatch.setattr(replay, "prepare", closing)
    with pytest.raises(UsageError, match="the session is closed"):
        session.graph("step", batch=1, kind="plain").launch()


def test_a_child_forked_during_a_launch_can_launch(bundle: Path) -> None:
    with Session.open(bundle) as session:
        graph = session.graph("step", batch=4, kind="plain")
        graph.launch()
        ended = threading.Event()

        def launching() -> None:
            while not ended.is_set():
                graph.launch()

        thread = threading.Thread(target=launching)
        thread.start()
        try:
            for _ in range(10):
                if (child := os.fork()) == 0:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.alarm(20)
                    try:
                        session.write("count", np.array([1, 2]))
                        graph.launch()
                        os._exit(graph.read("next").tolist() != [3, 5])
                    finally:
                        os._exit(1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            ended.set()
            thread.join()


def test_a_view_outlives_its_session(bundle: Path) -> None:
    session = Session.open(bundle)
    view = session.tensor("count")
    session.close()
    session.close()
    assert view.tolist() == [1, 2]


def test_the_arena_is_freed_with_the_last_reference(bundle: Path) -> None:
    gc.disable()  # so that no cycle of references is left for it
    try:
        session = Session.open(bundle)
        name, key = session.graphs[0]
        session.graph(name, **key).launch()
        arena = weakref.ref(session._opened.arena)
        view = session.tensor("count")
        del session
        assert arena() is None
        assert view.tolist() == [2, 4]
    finally:
        gc.enable()


def test_sessions_share_weights_and_state_which_outlive_either(bundle: Path) -> None:
    first = Session.open(bundle)
    weights = bundle.parent / "w.safetensors"
    weights.rename(weights.with_suffix(".moved"))  # they are there already
    second = Session.open(bundle, place={"weights": first, "state": first})
    third = second.beside(bundle, lambda own, other: ["state", "weights"])
    x = np.full((4, 3), 2, np.float32)
    for launches, session in enumerate((first, second, third), start=1):
        session.write("x", x * launches)
        session.graph("step", batch=1, kind="plain").launch()
        assert session.read("count").tolist() == [2**launches, 2 ** (launches + 1)]
        # Inputs and results are each session's own.
        assert second.read("x")[0, 0] == [1, 4, 4][launches - 1]
    first.close()
    del first, session
    gc.collect()
    expected = (2 * x[:1] @ np.arange(12, dtype=np.float32).reshape(3, 4) + 1) * 3
    graph = second.graph("step", batch=1, kind="plain")
    graph.launch()
    assert graph.read("y").tolist() == expected.tolist()
    second.close()
    assert third.read("count").tolist() == [16, 32] and third.read("w")[2, 3] == 11
    third.close()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda s: {"state": np.zeros(99, np.uint8)}, "'state': on the host, give another open"),
        (lambda s: {"io": s}, "'io': on the host, sessions share weights and state"),
        (lambda s: {"kv": s}, "no region 'kv' to give memory for; there is weights, state"),
        (lambda s: [s.close(), {"state": s}][1], "'state': on the host, give another open"),
    ],
    ids=["array", "io", "unknown", "closed"],
)
def test_what_cannot_be_shared_is_refused(bundle: Path, place: object, message: str) -> None:
    with Session.open(bundle) as session, pytest.raises(UsageError, match=message):
        Session.open(bundle, place=place(session))  # type: ignore[operator]
    with pytest.raises(UsageError, match="lies at no address"):
        Session.open(bundle, base=1 << 20)


def test_unlike_contents_are_not_shared(bundle: Path, tmp_path: Path) -> None:
    """Whether weights are in files or in the bundle."""
    folder = tmp_path / "other"
    folder.mkdir()
    for embed in (False, True):
        paths = [tmp_path / f"{embed}.fdy", folder / f"{embed}.fdy"]
        for path, scale in zip(paths, (1.0, 2.0), strict=True):
            save(path, embed, scale=scale)
        with Session.open(paths[0]) as session:
            session.beside(paths[1], lambda own, other: ["state"]).close()
            with pytest.raises(UsageError, match="'weights' cannot be shared"):
                session.beside(paths[1], lambda own, other: ["weights"])


def test_a_bundle_beside_another_needs_the_same_signature(bundle: Path, tmp_path: Path) -> None:
    signed, key = tmp_path / "signed.fdy", tmp_path / "release.key"
    shutil.copy(bundle, signed)
    create_key(key)
    sign(signed, key)
    with Session.open(signed, trust=key.with_suffix(".pem")) as session:
        session.beside(signed, lambda own, other: ["weights"]).close()
        with pytest.raises(NotSigned):
            session.beside(bundle, lambda own, other: ["weights"])


def test_threads_launch_one_after_another(bundle: Path, monkeypatch) -> None:
    running = []

    def launch(tape) -> None:
        running.append(tape)
        time.sleep(0.01)
        assert running == [tape]
        running.clear()

    monkeypatch.setattr("foundryrt.host.replay.Tape.launch", launch)
    with Session.open(bundle) as session, ThreadPoolExecutor(4) as threads:
        name, key = session.graphs[0]
        for done in [threads.submit(session.graph(name, **key).launch) for _ in range(8)]:
            done.result()


def test_without_a_check_only_sizes_are_compared(bundle: Path) -> None:
    file = bundle.parent / "w.safetensors"
    data = bytearray(file.read_bytes())
    data[-4:] = np.float32(7).tobytes()
    file.write_bytes(data)
    with Session.open(bundle, load_weights=False) as session:
        with pytest.raises(WeightsChanged):
            session.load_weights()
        session.load_weights(check=False)
        assert session.read("w")[2, 3] == 7
        file.write_bytes(data + b"0")
        with pytest.raises(WeightsChanged):
            session.load_weights(check=False)


def test_a_bundle_holds_every_dtype(tmp_path: Path) -> None:
    """Registered with random bits, taken apart and put back."""
    random = torch.Generator().manual_seed(3)
    bits = {n: torch.randint(0, 256, (4 * size,), generator=random) for n, size in DTYPES.items()}
    tensors = {
        name: (data % 2 if name == "bool" else data).to(torch.uint8).view(getattr(torch, name))
        for name, data in bits.items()
    }
    with Recorder("host", workload="demo", settings={}) as r:
        held = {n: r.register(n, tensor, role="input") for n, tensor in tensors.items()}
        with r.graph("swap") as g:
            for name, tensor in held.items():
                g.output(f"{name} swapped", torch.cat((tensor[2:], tensor[:2])))
        r.save(tmp_path / "dtypes.fdy")
    with Session.open(tmp_path / "dtypes.fdy") as session:
        graph = session.graph("swap")
        graph.launch()
        for name, tensor in tensors.items():
            found, swapped = session.read(name), graph.read(f"{name} swapped")
            assert found.dtype == swapped.dtype == storage_dtype(name)
            assert str(found.dtype) == SEEN_AS.get(name, name)
            assert found.tobytes() == bytes(tensor.view(torch.uint8).numpy())
            assert swapped.tobytes() == np.concatenate((found[2:], found[:2])).tobytes()
            session.write(name, found)


def test_dtypes_are_torchs_and_have_numpys_type_strings() -> None:
    for name, size in DTYPES.items():
        assert getattr(torch, name).itemsize == size
        assert (
            np.dtype(_TYPES[name]) == storage_dtype(name) and storage_dtype(name).itemsize == size
        )
