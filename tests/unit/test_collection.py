"""Garbage collection that waits for a capture."""

from __future__ import annotations

import gc

import pytest

from foundryc.cuda.collection import postponed


def test_nothing_is_collected_within() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), postponed():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_who_has_no_collection_keeps_none() -> None:
    gc.disable()
    try:
        with postponed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
