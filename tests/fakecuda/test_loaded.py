"""Kernel binaries that bundles which are open together have in common are loaded once."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundryc.template import GraphTable
from foundryrt import native
from foundryrt.bundle.schema import Function, Variable
from foundryrt.session import Session
from foundryrt.standby import warm
from tests.fakecuda import bundle as counters
from tests.fakecuda.elf import cubin
from tests.fakecuda.test_placement import relocated, run, save

CUBINS = (cubin(b"FAKE add"), cubin(b"FAKE more"))
FILE = b"_INTERNAL_0f3a_4_a_cu_11f0"
"""What nvcc puts before names of one source file."""
OFFSET = Variable(kernel=0, name="offset", data=(100).to_bytes(4, "little"))


def libraries(fake) -> int:
    found = re.search(r"library (\d+)", fake.live)
    return int(found[1]) if found else 0


def captured(cubins=CUBINS, **changes):
    return replace(relocated(counters.capture(cubins)), **changes)


def opened_twice(tmp_path, fake, first, second) -> int:
    """Libraries that there are while both are open; each gives what it gives alone."""
    paths = [save(tmp_path / f"{name}.fdy", each) for name, each in (("x", first), ("y", second))]
    alone = []
    for path in paths:
        with Session.open(path) as session:
            alone.append(run(session))
    with Session.open(paths[0]) as x:
        x.wait()
        with Session.open(paths[1]) as y:
            y.wait()
            count = libraries(fake)
            assert run(x) == alone[0]
            # What the other one holds stays when this one goes.
            x.close()
            assert run(y) == alone[1]
    assert fake.live == ""
    return count


def of_libraries(file: bytes) -> list[bytes]:
    """Names of objects without contents, as in the binaries of torch 2.11 to 2.13."""
    own = b"_ZN%d%s" % (len(file), file)
    names = b"4cuda3std3__45__cpo5beginE", b"6thrust12placeholders2_1E", b"4cute1_E"
    return [own + name for name in names]


def test_equal_binaries_are_loaded_once(tmp_path, fake):
    assert opened_twice(tmp_path, fake, captured(), captured()) == 2
    other = captured((cubin(b"FAKE add"), cubin(b"FAKE more none")))
    assert opened_twice(tmp_path, fake, captured(), other) == 3


@pytest.mark.parametrize(
    ("binary", "count"),
    [
        (cubin(b"FAKE add", [b"counter"]), 3),
        (cubin(b"FAKE add", [b"_$_str", b"counter"]), 3),
        (cubin(b"FAKE add", [b"_$_str", b"$str$1", b"__unnamed_1", b"__cudart_i2opi_f"]), 2),
        (cubin(b"FAKE add", [b"precalc_xorwow_matrix", b"mrg32k3aM1Seq"]), 2),
        (cubin(b"FAKE add", of_libraries(FILE), size=1), 2),
        (cubin(b"FAKE add", of_libraries(FILE)), 3),
        (cubin(b"FAKE add", [*of_libraries(FILE), b"_ZN3own6thrustE"], size=1), 3),
        (cubin(b"FAKE add", [b"_ZN4cute1_E"], size=1), 2),
        (cubin(b"FAKE add", [b"4cute1_E"], size=1), 3),
        (cubin(b"FAKE add", [b"_ZN9999_INTERNAL_4cute1_E"], size=1), 3),
        (cubin(b"FAKE add", [], [b"counter"]), 2),
        (b"FAKE add\0", 3),
        (CUBINS[0][:-10], 3),
    ],
)
def test_a_binary_that_may_hold_state_is_each_bundle_s_own(tmp_path, fake, binary, count):
    both = captured((binary, CUBINS[1]))
    assert opened_twice(tmp_path, fake, both, both) == count


def test_a_binary_whose_variables_are_written_is_each_bundle_s_own(tmp_path, fake):
    written = captured(variables=(OFFSET,))
    assert opened_twice(tmp_path, fake, captured(), written) == 3


def test_functions_of_other_attributes_are_of_another_binary(tmp_path, fake):
    capture = captured()
    add, more = capture.functions
    other = replace(
        capture, functions=[add, msgspec.structs.replace(more, max_dynamic_shared=1 << 17)]
    )
    assert opened_twice(tmp_path, fake, capture, other) == 3


@pytest.mark.parametrize("order", [(60, 100), (100, 60), (60, 100, 60), (100, 60, 100)])
def test_functions_of_one_kernel_may_want_different_attributes(tmp_path, fake, order):
    """Graph `n` launches with the nth of these KiB of shared memory, by the function for it."""
    capture, sizes = captured(), sorted(set(order))
    graphs = []
    for n, size in enumerate(order):
        launch = counters._launch(counters.IO, 1, shared=size << 10)
        node = (counters.KERNEL, sizes.index(size), launch, counters._skeleton(packed=True))
        # No two are members of one template, each of which is made as it comes.
        columns = counters._columns([node] * (n + 1), [])
        graphs.append(GraphTable("sized", {"n": n}, columns))
    functions = [Function(name="more", kernel=1, max_dynamic_shared=size << 10) for size in sizes]
    made = relocated(replace(capture, functions=functions, graphs=graphs))
    path = save(tmp_path / "sized.fdy", made)
    # The second finds what the first has loaded.
    with Session.open(path) as first, Session.open(path) as second:
        for session in (first, second):
            for n in range(len(order)):
                session.graph("sized", n=n).launch()
            assert (session.read("result") == sum(range(len(order) + 1))).all()
    assert fake.live == ""


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_damage_of_a_binary_s_tables_matters_to_those_who_read_them(
    data, fake, tmp_path_factory
):
    binary = bytearray(cubin(b"FAKE add", [b"counter"]))
    for _ in range(data.draw(st.integers(1, 6))):
        # But for the name and the text, by which the stand-in knows it.
        at = data.draw(st.sampled_from([*range(5, 64), *range(73, len(binary))]))
        binary[at] = data.draw(st.integers(0, 255))
    path = save(tmp_path_factory.mktemp("elf") / "c.fdy", captured((bytes(binary), CUBINS[1])))
    with Session.open(path) as session:
        session.wait()
    assert fake.live == ""


@pytest.fixture
def keeping(fake):
    native.keep_loaded()
    yield
    native.keep_loaded(False)
    assert fake.live == ""


def test_a_process_may_keep_kernels_of_the_bundle_that_it_closed_last(tmp_path, fake, keeping):
    """Kernels that may hold state are not kept; a bundle that is opened again gives the same."""
    own = captured((cubin(b"FAKE add", [b"counter"]), CUBINS[1]))
    other = captured((cubin(b"FAKE add"), cubin(b"FAKE more none")))
    given, loads = [], []
    for capture, left in (
        (captured(), 2), (captured(), 2), (other, 2), (own, 1), (captured(), 2),
    ):  # fmt: skip
        fake.fail(0)
        with Session.open(save(tmp_path / "c.fdy", capture)) as session:
            session.wait()
            loads.append(fake.loads)
            given.append(run(session))
        assert libraries(fake) == left
    assert given[0] == given[1] == given[4]
    assert loads[:2] == [2, 0] and loads[4] > 0


def test_a_bundle_that_is_opened_once_leaves_its_kernels(tmp_path, fake, keeping):
    warm.open_once(save(tmp_path / "c.fdy", captured()), None, 0)
    assert libraries(fake) == 2
