"""A bundle is kept once it gives, elsewhere, what its graphs gave: on the stand-in driver."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foundryc import recorder, report
from foundryc.capture_file import save as store_capture
from foundryc.cuda import proof
from foundryc.cuda.graph import RecordedGraph
from foundryc.elsewhere import Elsewhere
from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.outputs import outputs
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters
from tests.fakecuda.test_placement import capture, save

ROOT = Path(__file__).parents[2]
NAMES = ["step", "step", "last"]


@pytest.fixture
def path(tmp_path, fake):
    return save(tmp_path / "a.fdy", capture())


def test_each_graph_begins_with_the_memory_of_the_capture(path, fake):
    here, there = (list(outputs(path, base)) for base in (counters.STATE, proof.PLACE))
    assert here == there
    assert here[0] != here[1]  # 11 and 25 more than at first, not 11 and 36
    proof.prove(path, here, NAMES)
    assert fake.live == ""


def test_another_result_is_named(path):
    wanted = list(outputs(path, counters.STATE))
    wanted[1]["result"] = "0" * 64
    with pytest.raises(FoundryError, match="graph step: at another place its output 'result' is"):
        proof.prove(path, wanted, NAMES)
    wanted[1].clear()  # it does not repeat itself: not compared
    proof.prove(path, wanted, NAMES)


def test_an_address_that_was_missed_fails(tmp_path, fake):
    made = capture()
    graph = made.graphs[0]
    columns = graph.columns | {
        name: graph.columns[name][:-1] for name in ("relocation_word", "relocation_region")
    }
    graphs = [replace(graph, columns=columns)]
    path = save(tmp_path / "a.fdy", replace(made, graphs=graphs, tensors=made.tensors[:2]))
    with Session.open(path) as session:
        session.graph("step", by=11).launch()
        wanted = [{"result": "not looked at"}]
    with pytest.raises(FoundryError, match=r"before it had run .* failed|is not what it is here"):
        proof.prove(path, wanted, NAMES[:1])


CHILD = """
from dataclasses import replace
import msgspec
from foundryc.capture_file import save
from foundryc.elsewhere import moved, store
from tests.fakecuda.test_placement import capture
made = capture((1 << 41) + (10 << 20) if moved() else 0)
{more}
save(made, store())
"""
TUNED = """
if not moved() and not (tuned := store().with_name("tuned")).exists():
    tuned.touch()
    more = msgspec.structs.replace(made.requirements, memory=made.requirements.memory + 1)
    made = replace(made, requirements=more)
"""


class Recording:
    """As a recording on a GPU: what it captured, and what its graphs give here."""

    def __init__(self, folder: Path) -> None:
        self.own, self.folder = capture(), folder
        self.graphs = [RecordedGraph(name, {}, number) for number, name in enumerate(NAMES)]

    def capture(self, embed_weights):
        return self.own

    def rehearse(self, made):
        path = save(self.folder / "own.fdy", made)
        return proof.Rehearsal(list(outputs(path, counters.STATE)), frozenset())

    def prove(self, path, rehearsal):
        proof.prove(path, rehearsal.digests, NAMES)


@pytest.fixture
def made(request, tmp_path, fake, monkeypatch):
    """A recorder whose recording is made up, with real processes elsewhere."""
    child = CHILD.replace("{more}", getattr(request, "param", ""))
    monkeypatch.setattr(recorder, "_open_recording", lambda *_: Recording(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "others").mkdir()
    with Elsewhere([sys.executable, "-c", child], tmp_path / "others") as others:
        others.begin()
        yield recorder.Recorder("cuda", "counters", {}, elsewhere=others)


def test_a_recorder_keeps_what_was_proved(made, tmp_path, fake):
    made.save(tmp_path / "kept.fdy")
    with Session.open(tmp_path / "kept.fdy", base=0x630000000000) as session:
        session.graph("step", by=25).launch()
        assert (session.graph("step", by=25).read("result") == counters.INITIAL + 25).all()
    assert set(os.listdir(tmp_path / "others")) == {"again", "moved"}


@pytest.mark.parametrize("made", [TUNED], indirect=True)
def test_the_first_process_captures_again_where_it_alone_tuned_kernels(made, tmp_path):
    made.save(tmp_path / "kept.fdy")
    with Bundle.open(tmp_path / "kept.fdy") as bundle:
        assert bundle.manifest.requirements == capture().requirements


def test_what_fails_its_proof_is_not_kept(made, tmp_path):
    made._recording.prove = lambda path, rehearsal: proof.prove(
        path, [{"result": "0" * 64}] * 3, NAMES
    )
    with pytest.raises(FoundryError, match=r"is not what it is here; .* other code captured it; c"):
        made.save(tmp_path / "kept.fdy")
    assert not (tmp_path / "kept.fdy").exists()


PROVED = {
    "equal": "^$",
    "equal with ranks": "^$",
    "unsteady": "^$",
    "adopted": "^$",
    "noise with ranks": r"^graph step\[by=25\]: .*, node 2 of 5, kernel 'more', makes",
    "noise": "^" + re.escape(
        "graph step[by=25]: at another place its output 'result' is not what it is here; of the"
        " same memory, node 2 of 5, kernel 'more', makes something else: region 'state', byte 0"
        " (tensor 'state') is 0x1a00000019 here and 0x100000000f there; taken for noise was, of"
        " 2: graph step[by=25], node 2, kernel 'more': argument 2, byte 0 of 4; capture it"
    ),
    "initial": r"step\[by=11\]: .* node 1 of 5, kernel 'add', .* 0x200000008 here and 0x2",
    "untouched": r"last: .* 'untouched' .*; none of its nodes makes something else",
    "skewed": r"node 0 of 2, a copy, .* 'io', byte 80 .* 0x6010+8 here and 0x20+c there",
    "lost": r"step\[by=25\]: before it had run .* failed .* with node 4 of 5, a copy, and",
}  # fmt: skip


@pytest.fixture(scope="module")
def proved(library, tmp_path_factory):
    """The folder of the cases of PROVED, and what was said of each."""
    folder = tmp_path_factory.mktemp("proved")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakecuda.proving", str(folder), *PROVED],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("case", PROVED)
def test_the_node_that_differs_is_named(proved, case):
    folder, said, errors = proved
    assert said[case] is not None, errors
    assert re.search(PROVED[case], said[case]), said[case]
    assert (folder / case / "kept.fdy").exists() == (not said[case])


@pytest.mark.parametrize(
    ("case", "outputs", "left_out"),
    [
        ("equal", 3, []),
        ("unsteady", 4, [("last", "unsteady")]),
        ("adopted", 3, [(g, "result") for g in ("step[by=11]", "step[by=25]", "last")]),
    ],
)
def test_outputs_that_were_not_compared_are_named(proved, case, outputs, left_out):
    folder, _, _ = proved
    with Bundle.open(folder / case / "kept.fdy") as bundle:
        proof = report.summary(bundle)["proof"]
    assert proof == {
        "outputs": outputs,
        "compared": outputs - len(left_out),
        "not_compared": [{"graph": graph, "output": name} for graph, name in left_out],
    }


def test_captures_that_disagree_are_not_kept(made, tmp_path):
    words = made._recording.own.graphs[2].words
    words[3] += np.uint64(1)
    with pytest.raises(FoundryError, match=r"graph last.* (differs|not the same)"):
        made.save(tmp_path / "kept.fdy")
    assert not (tmp_path / "kept.fdy").exists()


def test_a_process_for_another_stores_its_capture(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(recorder, "_open_recording", lambda *_: Recording(tmp_path))
    monkeypatch.setenv("FOUNDRY_STORE", str(tmp_path / "stored"))
    recorder.Recorder("cuda", "counters", {}).save(tmp_path / "kept.fdy")
    store_capture(capture(), tmp_path / "same")
    assert (tmp_path / "stored").read_bytes() == (tmp_path / "same").read_bytes()
    assert not (tmp_path / "kept.fdy").exists()
    with pytest.raises(UsageError, match="for --target cuda alone"):
        recorder.Recorder("host", "x", {}, elsewhere=Elsewhere([], tmp_path))
