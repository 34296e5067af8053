"""The ring of records: every reader takes every record in order, and nobody waits for the dead."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.native.ring import MOST_BYTES, Ring, ring_file

SMALL, END = 1 << 16, 0
RECORDS = st.lists(
    st.tuples(
        st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
        st.integers(0, SMALL // 4),
    ),
    max_size=60,
)  # fmt: skip


def rings(readers: int, capacity: int = SMALL) -> tuple[Ring, list[Ring]]:
    """One for the writer, and for each reader a mapping of its own, as in processes."""
    file = ring_file(capacity)
    writer, *others = (Ring(os.dup(file), readers, capacity) for _ in range(readers + 1))
    os.close(file)
    return writer, others


def read_all(ring: Ring, reader: int, pause: random.Random | None) -> list[tuple[int, ...]]:
    taken = []
    while (record := ring.take(reader, 60_000)) and record.kind != END:
        if pause and pause.random() < 0.3:
            time.sleep(pause.random() / 500)
        taken.append((record.kind, record.index, record.value, bytes(record.data)))
        ring.done(reader)
    return taken


@settings(deadline=None, max_examples=40)
@given(records=RECORDS, readers=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_every_reader_takes_every_record_in_order(records, readers, seed):
    """More bytes than the ring holds, by readers of which some are slow."""
    made = random.Random(seed)
    records = [(*numbers, made.randbytes(size)) for *numbers, size in records]
    writer, others = rings(readers)
    taken: dict[int, list[tuple[int, ...]]] = {}

    def read(reader: int) -> None:
        slow = random.Random(seed + reader) if reader % 2 else None
        taken[reader] = read_all(others[reader], reader, slow)

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(readers)]
    for thread in threads:
        thread.start()
    for kind, index, value, data in records:
        while not writer.put(kind, index, value, memoryview(data)):
            pass
    while not writer.drain():
        pass
    writer.put(END)
    for thread in threads:
        thread.join()
    assert taken == dict.fromkeys(range(readers), records)
    for ring in (writer, *others):
        ring.close()


def test_the_writer_waits_for_the_slowest():
    writer, (first, second) = rings(2)
    data = memoryview(bytes(SMALL // 4))
    count = 0
    while writer.put(1, count, 0, data, 1):
        count += 1
    assert count == 3  # each record has a head, too
    for reader, ring in ((0, first), (0, first), (1, second)):
        assert ring.take(reader, 0) is not None
        ring.done(reader)
    assert not writer.drain(1)
    assert writer.put(1, count, 0, data, 1)
    assert not writer.put(1, count, 0, data, 1)
    for ring in (writer, first, second):
        ring.close()


def test_a_record_stays_until_it_is_done_with():
    writer, (ring,) = rings(1)
    assert ring.take(0, 1) is None
    writer.put(7, 8, 9, memoryview(b"abc"))
    assert bytes(ring.take(0).data) == bytes(ring.take(0).data) == b"abc"
    ring.done(0)
    assert ring.take(0, 1) is None


def test_a_record_wakes_a_reader_that_sleeps():
    writer, (ring,) = rings(1)
    found = []
    thread = threading.Thread(target=lambda: found.append(ring.take(0, 60_000)))
    thread.start()
    time.sleep(0.05)  # it sleeps by now
    writer.put(7)
    thread.join(30)
    assert found and found[0].kind == 7


@pytest.mark.parametrize("misused", [lambda ring: ring.take(1), lambda ring: ring.put(
    1, 0, 0, memoryview(bytes(2 * SMALL)))])  # fmt: skip
def test_what_there_is_no_room_for_is_refused(misused):
    writer, _ = rings(1)
    with pytest.raises(ValueError, match="no room"):
        misused(writer)


CHILD = """
import sys
from foundryrt.native.ring import Ring
ring = Ring(int(sys.argv[1]), 2)
while True:
    record = ring.take(1, 10_000)
    print(record.index, len(record.data), flush=True)
    ring.done(1)
"""


def test_a_reader_in_another_process_and_its_death():
    file = ring_file()
    command = [sys.executable, "-c", CHILD, str(file)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[file])
    ring = Ring(file, 2)
    data = memoryview(bytes(MOST_BYTES))

    def put(index: int) -> bool:
        done = ring.put(1, index, 0, data, 100)
        if done:
            assert ring.take(0, 0) is not None
            ring.done(0)
        return done

    for index in range(10):
        while not put(index):
            assert child.poll() is None
        assert child.stdout.readline() == f"{index} {MOST_BYTES}\n"
    assert ring.drain(10_000)
    child.kill()
    child.wait()
    assert [put(index) for index in range(5)] == [True] * 3 + [False] * 2
