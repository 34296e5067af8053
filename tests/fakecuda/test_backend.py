"""Materialization over the stand-in driver: results, order, refusals, undoing."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Variable
from foundryrt.cuda import dlpack, driver, graphs
from foundryrt.cuda.backend import CudaBackend
from foundryrt.errors import FoundryError, UsageError
from foundryrt.native import Materializer
from foundryrt.undo import Undo
from tests.fakecuda import bundle as counters


@pytest.fixture
def bundle(tmp_path, fake):
    with Bundle.open(counters.write(tmp_path / "counters.fdy")) as opened:
        yield opened


def tensor(backend, bundle, name):
    return next(backend.tensor(t) for t in bundle.manifest.tensors if t.name == name)


def test_every_graph_computes_what_it_was_captured_to(bundle, fake):
    backend = CudaBackend(bundle)
    result = tensor(backend, bundle, "result")
    backend.launch(0)
    assert (result.read() == counters.INITIAL + 11).all()
    backend.launch(1)
    assert (result.read() == counters.INITIAL + 11 + 25).all()
    backend.launch(0)
    assert (result.read() == counters.INITIAL + 11 + 25 + 11).all()
    backend.launch(2)
    assert (result.read() == counters.INITIAL + 47 + 1000).all()
    backend.close()
    assert fake.live == ""


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_a_member_does_not_depend_on_which_came_first(bundle, fake, order):
    backend = CudaBackend(bundle, first=order[0])
    backend.graphs.wait()
    assert backend.graphs.ready == 3
    state = tensor(backend, bundle, "state")
    for index in order:
        state.write(np.zeros(counters.COUNT, np.int32))
        backend.launch(index)
        assert (state.read() == (11, 25, 0)[index]).all()
    backend.close()


def test_memory_without_saved_bytes_begins_as_zeros(bundle, fake):
    backend = CudaBackend(bundle)
    assert (tensor(backend, bundle, "result").read() == 0).all()
    assert (tensor(backend, bundle, "state").read() == counters.INITIAL).all()
    backend.close()


def test_any_failing_call_undoes_everything_and_leaves_the_process_usable(bundle, fake):
    def use() -> None:
        backend = CudaBackend(bundle, first=0)
        try:
            backend.graphs.wait()
        finally:
            backend.close()

    said = fake.fail_each(use)
    assert len(said) > 40
    for error in said:
        assert "CUDA_ERROR_OUT_OF_MEMORY (2)" in error and "free device memory" in error
    backend = CudaBackend(bundle)
    backend.launch(0)
    assert (tensor(backend, bundle, "result").read() == counters.INITIAL + 11).all()
    backend.close()


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ({"architecture": 80}, "captured on sm_90, this GPU is sm_80"),
        ({"version": 12080}, "needs a driver of CUDA 13.0, this one knows 12.8"),
        ({"memory": 1 << 20}, "free some or use a smaller bundle"),
    ],
)
def test_an_unfit_device_is_refused_before_anything_is_touched(bundle, fake, device, words):
    fake.device(**device)
    with pytest.raises(FoundryError, match=words):
        CudaBackend(bundle)
    assert fake.live == ""


def test_addresses_that_are_taken_are_named(bundle, fake):
    first = CudaBackend(bundle)
    with pytest.raises(FoundryError, match=r"0x601000000000 to .* are taken in this process"):
        CudaBackend(bundle)
    first.close()
    assert fake.live == ""


def test_a_binary_of_another_kind_is_named(tmp_path, fake):
    path = counters.write(tmp_path / "bad.fdy", cubins=(b"FAKE add\0", b"no cubin\0"))
    with (
        Bundle.open(path) as bundle,
        pytest.raises(FoundryError, match=r"cuLibraryLoadData \(more\)"),
    ):
        CudaBackend(bundle, first=0)
    assert fake.live == ""


def test_writing_another_shape_is_a_usage_error(bundle, fake):
    backend = CudaBackend(bundle)
    with pytest.raises(UsageError, match="state is int32"):
        tensor(backend, bundle, "state").write(np.zeros(3, np.int32))
    backend.close()


def test_a_damaged_graph_fails_each_time_it_is_asked_for(tmp_path, fake):
    path = counters.write(tmp_path / "counters.fdy")
    data = bytearray(path.read_bytes())
    with Bundle.open(path) as bundle:
        section = bundle.sections[bundle.manifest.kernels[1].section]
    data[section.offset] ^= 1
    path.write_bytes(data)
    with Bundle.open(path) as bundle:
        backend = CudaBackend(bundle)
        for _ in range(2):
            with pytest.raises(FoundryError, match="does not match its SHA-256"):
                backend.launch(2)
        with pytest.raises(FoundryError, match="does not match its SHA-256"):
            backend.graphs.wait()
        backend.close()
    assert fake.live == ""


def test_dlpack_keeps_what_it_exports_until_it_is_let_go(bundle, fake):
    backend = CudaBackend(bundle)
    state = tensor(backend, bundle, "state")
    before = len(dlpack._exported)
    capsule = state.__dlpack__()
    assert len(dlpack._exported) == before + 1
    (managed, shape, strides, owner) = list(dlpack._exported.values())[-1]
    assert (managed.tensor.data, managed.tensor.device_type) == (counters.STATE, 2)
    assert (managed.tensor.code, managed.tensor.bits) == (0, 32)
    assert (list(shape), list(strides), owner) == ([counters.COUNT], [1], state)
    del capsule
    assert len(dlpack._exported) == before
    backend.close()


def test_variables_hold_their_captured_values(tmp_path, fake):
    value = np.array([500], np.uint32).tobytes()
    variable = Variable(kernel=1, name="offset", data=value)
    with Bundle.open(counters.write(tmp_path / "v.fdy", variables=[variable])) as bundle:
        backend = CudaBackend(bundle, first=0)
        backend.launch(0)
        assert (tensor(backend, bundle, "result").read() == counters.INITIAL + 11 + 500).all()
        backend.close()
    for name, data in (("other", value), ("offset", value * 2)):
        variable = Variable(kernel=1, name=name, data=data)
        with (
            Bundle.open(counters.write(tmp_path / "w.fdy", variables=[variable])) as bundle,
            pytest.raises(FoundryError, match=name),
        ):
            CudaBackend(bundle, first=0)
        assert fake.live == ""


def test_a_claimed_number_of_nodes_takes_no_more_memory_than_the_bundle_stores(
    tmp_path, fake, monkeypatch
):
    path = counters.write(tmp_path / "counters.fdy")
    taken = []

    def materializer(*arguments):
        taken.append(arguments[4])
        return Materializer(*arguments)

    monkeypatch.setattr(graphs, "Materializer", materializer)
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        CudaBackend(bundle).close()
        assert taken.pop() == sum(manifest.templates[g.template].nodes for g in manifest.graphs)
        inflated = tuple(msgspec.structs.replace(t, nodes=1 << 40) for t in manifest.templates)
        bundle.manifest = msgspec.structs.replace(manifest, templates=inflated)
        with pytest.raises(FoundryError, match="entries"):
            CudaBackend(bundle, first=0)
        assert taken.pop() < path.stat().st_size
    assert fake.live == ""


def test_any_number_of_nodes_is_a_hint(fake):
    with Undo() as undo:
        Materializer(0, 0, 0, 0, (1 << 64) - 1, undo)


def test_graphs_are_started_once(bundle, fake):
    backend = CudaBackend(bundle)
    with pytest.raises(FoundryError, match="started already"):
        backend.graphs.start(backend.device.context, [0, 0])
    backend.graphs.wait()
    backend.close()
    assert fake.live == ""


@pytest.mark.parametrize("starting", [True, False])
@pytest.mark.parametrize("files", [True, False])
def test_host_memory_is_taken_at_once_but_beside_a_load(bundle, fake, monkeypatch, starting, files):
    """Where the driver runs and weights are loaded, nothing is done for other graphs meanwhile."""
    done: list[object] = []
    pause, touch = Materializer.pause, Materializer.touch
    monkeypatch.setattr(
        Materializer, "pause", lambda self, paused: done.append(paused) or pause(self, paused)
    )
    monkeypatch.setattr(Materializer, "touch", lambda self: done.append("touch") or touch(self))
    monkeypatch.setattr(CudaBackend, "load_weights", lambda self: done.append("weights"))
    monkeypatch.setattr(CudaBackend, "_has_files", files)
    driver.driver()
    if starting:
        driver.driver.cache_clear()
    CudaBackend(bundle).close()
    begun = [True] if files and not starting else [False, "touch"]
    assert done == [*begun, True, "weights", False, "touch"]
