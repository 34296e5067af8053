"""Whether bundles are of the same weights, where each reads other rows of the files."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundryrt import same_weights
from foundryrt.bundle.schema import WeightFile, Weights, WeightSource
from foundryrt.errors import UsageError
from foundryrt.same_weights import check_same_weights
from foundryrt.weight_files import FileState
from foundryrt.weights import WeightsMissing

ROWS, COLUMNS = 8, 3
TENSORS = {"a": 0, "b": ROWS * COLUMNS}
"""Of int8, by where they begin."""
SIZE = 2 * ROWS * COLUMNS
DATA = bytes(range(SIZE))
cuts = st.sets(st.integers(1, ROWS - 1), max_size=3).map(lambda rows: [0, *sorted(rows), ROWS])


def manifest(path: Path, data: bytes, rows: dict[str, list[int]], old: bool = False) -> Any:
    """Of a bundle that reads `rows` of tensors, each from one entry to the next, as they were."""
    sources = []
    for name, ends in rows.items():
        for first, end in pairwise(ends):
            start, stop = (TENSORS[name] + row * COLUMNS for row in (first, end))
            part, whole = data[start:stop], ends == [0, ROWS]
            kinds = {"sha256": hashlib.sha256(part).digest()} if old else {
                "blake3": blake3(part).digest()
            }  # fmt: skip
            label = name if whole else f"{name}[{first}:{end}]"
            sources.append(
                WeightSource(0, label, start, stop - start, "int8", end - first, COLUMNS, **kinds)
            )
    file = WeightFile("w.bin", SIZE, str(path))
    return SimpleNamespace(weights=Weights(files=(file,), sources=tuple(sources)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "w.bin"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries({"a": cuts, "b": cuts}), st.fixed_dictionaries({"a": cuts, "b": cuts}),
    st.booleans(), st.none() | st.integers(0, SIZE - 1),
)  # fmt: skip
def test_another_byte_anywhere_is_found(
    path: Path, mine: dict[str, list[int]], others: dict[str, list[int]], old: bool,
    changed: int | None,
) -> None:  # fmt: skip
    """However both are cut, and whatever kind of digest they have."""
    data = bytearray(DATA)
    if changed is not None:
        data[changed] ^= 1
    path.write_bytes(data)
    own, other = manifest(path, DATA, mine, old), manifest(path, bytes(data), others)
    if changed is None:
        check_same_weights(own, other, None)
        check_same_weights(own, other, path.parent)
        return
    with pytest.raises(UsageError, match="has other weights") as caught:
        check_same_weights(own, other, None)
    assert ("'b" if changed >= TENSORS["b"] else "'a") in str(caught.value)


def test_parts_that_both_read_need_no_file(tmp_path: Path) -> None:
    halves = {"a": [0, 4, ROWS]}
    gone = tmp_path / "w.bin"
    check_same_weights(manifest(gone, DATA, halves), manifest(gone, DATA, halves), None)
    with pytest.raises(WeightsMissing, match="is not there"):
        check_same_weights(
            manifest(gone, DATA, {"a": [0, ROWS]}), manifest(gone, DATA, halves), None
        )


def test_a_file_that_was_compared_is_read_where_it_is_another_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "w.bin", tmp_path / "new.bin"
    path.write_bytes(DATA)
    new.write_bytes(bytes(SIZE))
    own, other = (manifest(path, DATA, {"a": ends}) for ends in ([0, 4, ROWS], [0, ROWS]))
    compared = {"w.bin": FileState.of(path.stat())}
    with monkeypatch.context() as unread:
        unread.setattr(same_weights, "map_file", lambda _: pytest.fail("it was read"))
        check_same_weights(own, other, None, compared)
    new.replace(path)
    with pytest.raises(UsageError, match="has other weights \\('a"):
        check_same_weights(own, manifest(path, bytes(SIZE), {"a": [0, ROWS]}), None, compared)


def test_other_tensors_and_none_are_refused(path: Path) -> None:
    one, both = manifest(path, DATA, {"a": [0, ROWS]}), {"a": [0, ROWS], "b": [0, ROWS]}
    more, none = manifest(path, DATA, both), manifest(path, DATA, {})
    for pair in ((one, more), (more, one)):
        with pytest.raises(UsageError, match="has other weights \\('b'\\)"):
            check_same_weights(*pair, None)
    for pair in ((one, none), (none, one)):
        with pytest.raises(UsageError, match="capture it without --embed-weights"):
            check_same_weights(*pair, None)
