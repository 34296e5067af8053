"""Cyclic garbage beside a capture: when it goes must not depend on what else a process did."""

from __future__ import annotations

import gc
import weakref

import pytest

from foundryc.cuda.collection import collected, done


class Knot:
    """Garbage that only a collection frees."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def thawed():
    yield
    done()


def test_garbage_goes_where_a_body_begins_and_not_within_it():
    seen = []
    for _ in range(2):
        before = weakref.ref(Knot())
        with collected():
            seen.append(before() is None)
            within = weakref.ref(Knot())
            for _ in range(3):
                [Knot() for _ in range(gc.get_threshold()[0])]
            seen.append(within() is not None)
    assert seen == [True] * 4


def test_what_was_there_before_is_looked_at_again_when_done():
    old = Knot()
    seen = weakref.ref(old)
    with collected():
        del old
    with collected():
        assert seen() is not None
    done()
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("enabled", [False, True])
def test_collecting_goes_on_as_before(enabled):
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), collected():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
