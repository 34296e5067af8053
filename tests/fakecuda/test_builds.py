"""Bundles for GPUs of several architectures: recorded, stored, written, and opened on each."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from foundryc.capture_file import load, save
from foundryc.cuda import recording
from foundryc.cuda.build import Build, OnlyMemory
from foundryc.write import write_bundle
from foundryrt.bundle.builds import architectures
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters
from tests.fakecuda.test_capture import recorded  # noqa: F401 (a fixture)


def built(increment: int) -> Build:
    """A build that adds to the counters in two launches, as if for a GPU that is not here."""
    build = Build("sm_80")
    kernel = build.load(b"FAKE add old\0", "old", 2048)
    for _ in range(2):
        arguments = [counters.IO, counters.COUNT, increment]
        kernel.launch((1, 1, 1), (32, 1, 1), arguments, stream=0, shared=1024)
    return build


@pytest.fixture
def capture():
    """The counters' graphs, `last` and both of `step`, with builds that add 5, 6 and 7 twice."""
    plain = counters.capture()
    graphs = []
    for number, graph in enumerate(plain.graphs):
        table = built(5 + number).table(graph.name, graph.key, lambda kernel: 2)
        graphs.append(replace(graph, builds={"sm_80": table}))
    old = counters.Function(name="old", kernel=2, max_dynamic_shared=2048)
    return replace(
        plain,
        graphs=graphs,
        functions=[*plain.functions, old],
        kernels=[*plain.kernels, b"FAKE add old\0"],
    )


@pytest.fixture
def path(tmp_path, capture):
    save(capture, tmp_path / "c.capture")
    path = tmp_path / "counters.fdy"
    write_bundle(path, load(tmp_path / "c.capture"), "counters", {}, {})
    return path


def test_a_session_runs_what_was_built_for_its_gpu(path, fake):
    for architecture, first, then in ((90, 11, 1011), (80, 10, 24)):
        fake.device(architecture)
        with Session.open(path) as session:
            session.graph("step", by=11).launch()
            own = counters.INITIAL if architecture == 90 else 0
            assert (session.read("result") == own + first).all()
            session.graph("last").launch()
            assert (session.read("result") == own + then).all()
        assert fake.live == ""


def test_another_gpu_is_refused_before_it_is_touched(path, fake):
    fake.device(120)
    with pytest.raises(FoundryError, match=r"kernels for sm_90, sm_80, this GPU is sm_120.*--arch"):
        Session.open(path)
    assert fake.live == ""


def test_the_builds_of_a_topology_share_a_template(path):
    with Bundle.open(path) as bundle:
        bundle.verify()
        manifest = bundle.manifest
        assert architectures(manifest) == ("sm_90", "sm_80")
        assert len(manifest.templates) == 3
        assert {graph.builds[0].template for graph in manifest.graphs} == {1}
        table = bundle.template(1)
        # Seven words a node: blocks, threads and shared memory are the first four.
        assert [table.parameters[7 * node + 3] for node in range(2)] == [1024, 1024]


def test_a_bundle_without_builds_is_as_it_was(tmp_path, capture):
    plain = replace(capture, graphs=[replace(graph, builds={}) for graph in capture.graphs])
    write_bundle(tmp_path / "a.fdy", plain, "counters", {}, {})
    with Bundle.open(tmp_path / "a.fdy") as bundle:
        manifest = next(i for i, s in enumerate(bundle.sections) if s.kind == 1)
        assert b"builds" not in bytes(bundle.raw(manifest))


@pytest.fixture
def builder(recorded, monkeypatch):  # noqa: F811
    """The recording of test_capture, with no torch on a GPU."""
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "use_mem_pool", lambda pool: nullcontext())
    monkeypatch.setattr(type(recorded.arena), "pool", None, raising=False)
    recorded.stream = None
    return recorded


def test_what_is_recorded_for_another_gpu_runs_there(builder, tmp_path, fake, monkeypatch):
    audited = []
    monkeypatch.setattr(
        recording, "foreign_addresses", lambda graph, *_: audited.append(graph) or []
    )
    for graph in builder.graphs:
        with builder.build(graph, "sm_80") as build:
            kernel = build.load(b"FAKE old\0", "old", 0)
            kernel.launch((1, 1, 1), (32, 1, 1), [counters.IO, counters.COUNT, 3], stream=7)
    # Memory of others that a build is given would be taken in.
    assert [[graph.functions[f].name for f in graph.columns["function"]] for graph in audited] == [
        ["old"]
    ] * 3
    capture = builder.capture(False)
    assert capture.requirements.architecture == "sm_90"
    relocated = capture.graphs[0].builds["sm_80"].columns
    assert (relocated["relocation_word"].tolist(), relocated["relocation_region"].tolist()) == (
        [4], [2],
    )  # fmt: skip
    write_bundle(tmp_path / "a.fdy", capture, "counters", {}, {})
    fake.device(80)
    with Session.open(tmp_path / "a.fdy") as session:
        session.graph("last").launch()
        assert (session.graph("step", by=11).read("result") == 3).all()


def test_builds_are_of_recorded_graphs_and_launch_something(builder):
    unfinished = recording.RecordedGraph("x", {}, 9)
    with pytest.raises(UsageError, match="sm_80: a build is of a graph that has been recorded"):
        builder.build(unfinished, "sm_80").__enter__()
    with (
        pytest.raises(UsageError, match="graph last: nothing is launched for sm_80"),
        builder.build(builder.graphs[2], "sm_80"),
    ):
        pass
    assert not builder.graphs[2].table.builds


def test_torch_may_take_memory_and_view_it_and_no_more():
    samples = torch.zeros(6)
    only_memory = OnlyMemory()
    with only_memory:
        assert samples.new_empty((2, 3)).view(-1).reshape(3, 2)[1:].shape == (2, 2)
        torch.empty(3), torch.empty_like(samples)
    for work in (lambda: samples + 1, lambda: samples.zero_(), samples.clone):
        with only_memory, pytest.raises(UsageError, match="in a graph for another architecture"):
            work()
    assert np.all(samples.numpy() == 0)
