"""Staging buffers that a process which stands by keeps from one session to the next."""

from __future__ import annotations

import pytest

from foundryrt.addresses import address_of
from foundryrt.bundle.schema import Requirements
from foundryrt.cuda import staging, upload
from foundryrt.cuda.device import open_device
from foundryrt.cuda.driver import NON_BLOCKING, driver
from foundryrt.cuda.upload import FOR_FILES, Uploader
from foundryrt.undo import Undo

KEPT = FOR_FILES - 1


@pytest.fixture
def device(fake, monkeypatch):
    monkeypatch.setattr(staging, "_kept", [])
    with Undo() as undo:
        device = open_device(driver(), 0, Requirements(0, "sm_90", 13000), undo)
        yield device
        device.cuda("cuMemHostUnregister", min(map(address_of, staging._kept)))


def test_sessions_take_what_is_kept_and_give_it_back(device, fake, monkeypatch):
    staging.keep(device.cuda, KEPT)
    kept = {id(buffer) for buffer in staging._kept}
    assert len(kept) == KEPT
    pinned: list[int] = []
    pin = upload.pin
    monkeypatch.setattr(
        upload, "pin", lambda device, size, undo: pinned.append(size) or pin(device, size, undo)
    )
    before = fake.live
    for _ in range(2):
        with Undo() as undo:
            stream = device.cuda.make(undo, "cuStreamCreate", NON_BLOCKING)
            uploader = Uploader(device, stream, undo.part())
            uploader.reserve()
            # One more than there are.
            assert not staging._kept and pinned == [staging.CHUNK]
            data = memoryview(bytes(range(250)) * 9)
            address = device.cuda.make(undo, "cuMemAlloc_v2", len(data))
            uploader.copy(address, data)
            uploader.finish()
        assert {id(buffer) for buffer in staging._kept} == kept and fake.live == before
        pinned.clear()
    # A second session beside the first pins its own.
    with Undo() as undo:
        both = [Uploader(device, 0, undo.part()) for _ in range(2)]
        for uploader in both:
            uploader.reserve()
        assert pinned == [staging.CHUNK, FOR_FILES * staging.CHUNK]
    assert len(staging._kept) == KEPT


def test_what_is_given_back_twice_is_there_once(device):
    staging.keep(device.cuda, 2)
    undo = Undo()
    taken = staging.take(5, undo)
    assert len(taken) == 2 and not staging._kept
    (give_back,) = undo._steps
    give_back()
    undo.close()
    assert len(staging._kept) == 2
