"""Whatever happens to a valid file, the reader accepts an equal bundle or raises its own error."""

from __future__ import annotations

import hashlib
import resource
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundryrt.bundle.errors import BundleError
from foundryrt.bundle.layout import pack_header
from foundryrt.bundle.reader import Bundle
from tests.attacks.samples import parts

GOOD = parts().assemble()
QUICK = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def bounded_memory():
    """An attempt to take gigabytes fails here instead of being noticed in production."""
    old = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def read(path: Path, data: bytes) -> Bundle | None:
    path.write_bytes(data)
    start = time.process_time()
    try:
        with Bundle.open(path) as bundle:
            bundle.verify()
            return bundle
    except BundleError:
        return None
    finally:
        assert time.process_time() - start < 10


def reseal(data: bytearray) -> bytes:
    """Recompute every digest, so that a mutation gets past them to the checks behind."""
    table_offset = int.from_bytes(data[8:16], "little")
    if not 64 <= table_offset <= len(data):
        return bytes(data)
    for entry in range(table_offset, len(data) - 127, 128):
        offset = int.from_bytes(data[entry + 8 : entry + 16], "little")
        stored = int.from_bytes(data[entry + 16 : entry + 24], "little")
        if stored < 1 << 20:
            digest = hashlib.sha256(data[offset : offset + stored]).digest()
            data[entry + 32 : entry + 64] = digest
    data[:64] = pack_header(bytes(data[table_offset:]), table_offset, len(data))
    return bytes(data)


@QUICK
@given(st.data())
def test_flipped_bytes_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(GOOD) - 1))
    change = data.draw(st.integers(1, 255))
    mutated = bytearray(GOOD)
    mutated[place] ^= change
    assert read(tmp_path / "a.fdy", bytes(mutated)) is None


@QUICK
@given(st.integers(0, len(GOOD) - 1))
def test_every_cut_is_refused(tmp_path: Path, length: int) -> None:
    assert read(tmp_path / "a.fdy", GOOD[:length]) is None


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_resealed_mutations(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(GOOD)
    for place, value in changes:
        mutated[place] = value
    read(tmp_path / "a.fdy", reseal(mutated))


@QUICK
@given(st.data())
def test_resealed_table_entries(tmp_path: Path, data: st.DataObject) -> None:
    """Numbers of the section table replaced by awkward ones."""
    mutated = bytearray(GOOD)
    table = int.from_bytes(GOOD[8:16], "little")
    entry = data.draw(st.integers(0, 5)) * 128
    field = data.draw(st.sampled_from([0, 2, 8, 16, 24]))
    width = {0: 2, 2: 1}.get(field, 8)
    edges = [0, 1, 2, 4095, 4096, 8192, 2**31, 2**32, 2**63, 2**64 - 1]
    value = data.draw(st.one_of(st.sampled_from(edges), st.integers(0, 2**64 - 1)))
    place = table + entry + field
    mutated[place : place + width] = (value % 256**width).to_bytes(width, "little")
    read(tmp_path / "a.fdy", reseal(mutated))


def paths(value: object, at: tuple = ()) -> list[tuple]:
    """Where every leaf of a decoded manifest is."""
    if isinstance(value, dict):
        return [p for name, item in value.items() for p in paths(item, (*at, name))]
    if isinstance(value, list):
        return [p for index, item in enumerate(value) for p in paths(item, (*at, index))]
    return [at]


DECODED = msgspec.msgpack.decode(msgspec.msgpack.encode(parts().manifest))
LEAVES = paths(DECODED)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=4),
    st.binary(max_size=4), st.lists(st.integers(-3, 2**62), max_size=3),
)  # fmt: skip


@QUICK
@given(st.sampled_from(LEAVES), VALUES)
def test_manifest_leaves(tmp_path: Path, leaf: tuple, value: object) -> None:
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(DECODED))
    target = decoded
    for step in leaf[:-1]:
        target = target[step]
    target[leaf[-1]] = value
    sample = replace(parts(), encoded=msgspec.msgpack.encode(decoded))
    bundle = read(tmp_path / "a.fdy", sample.assemble())
    if bundle:
        # Accepted means understood: what was read says the same as what was written.
        encoded = msgspec.msgpack.encode(bundle.manifest)
        assert msgspec.msgpack.decode(encoded) == decoded or value != value
