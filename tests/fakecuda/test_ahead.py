"""Tables that are unpacked by threads before the reader asks for them."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.cuda.ahead import Ahead
from foundryrt.errors import FoundryError

numbers = st.lists(st.integers(0, 40), unique=True, max_size=30)


@given(numbers, st.sets(st.integers(0, 40), max_size=3), st.integers(0, 40))
def test_each_is_what_it_is_without_threads(order: list[int], bad: set[int], stop: int) -> None:
    """Damage is met where its table is taken, and nowhere else; nothing runs on afterwards."""

    going: list[int] = []

    def unpack(index: int) -> str:
        going.append(index)
        try:
            if index in bad:
                raise FoundryError(f"table {index}")
            return f"{index}"
        finally:
            going.remove(index)

    tables = Ahead(unpack)  # type: ignore[arg-type]
    with tables.unpacking(order):
        for index in order:
            if index == stop:
                break
            if index in bad:
                with pytest.raises(FoundryError, match=f"table {index}$"):
                    tables.take(index)
            else:
                assert tables.take(index) == f"{index}"
    assert not going


def test_threads_do_what_the_reader_has_not_come_to() -> None:
    done, all_done = [], threading.Event()

    def unpack(index: int) -> int:
        done.append((index, threading.get_ident()))
        if len(done) == 8:
            all_done.set()
        return index

    tables = Ahead(unpack)  # type: ignore[arg-type]
    with tables.unpacking(range(8)):
        assert all_done.wait(20)
    assert [tables.take(index) for index in range(8)] == list(range(8))
    assert sorted(index for index, _ in done) == list(range(8))
    assert threading.get_ident() not in {thread for _, thread in done}
