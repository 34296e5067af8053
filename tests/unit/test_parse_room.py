"""How many blocks a session's caches get."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.bundle.schema import Growth, Tensor
from foundryrt.errors import UsageError
from parse_runtime.capture.settings import Settings
from parse_runtime.commands.run import Options, rows
from parse_runtime.graphs import room
from parse_runtime.serve import Serving

GIB = 1 << 30
# Of 40 layers with 8 key heads of 128: a block has 2.5 MiB.
SHAPE = (40, 2, 16, 8, 128)
BLOCK = 2 * 40 * 2 * 16 * 8 * 128
CAPTURED, FIXED = 512, 3


def cache(name: str, region: int) -> Tensor:
    shape = (CAPTURED + FIXED, *SHAPE)
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return Tensor(
        name=name, region=region, offset=0, dtype="bfloat16", shape=shape, strides=tuple(strides),
        role="state",
    )  # fmt: skip


def bundle(
    most: int = 4000, refused: str = "", growing: bool = True, nodes: int = 0,
    target: str = "cuda", ranks: object = None,
) -> Any:  # fmt: skip
    """Two caches, in a bundle of 30 GiB."""
    tensors = (cache("draft.cache", 0), cache("target.cache", 1))
    growths = [Growth(tensor=i, most=most + i + FIXED, refused=refused) for i in range(2)]
    manifest = SimpleNamespace(
        tensors=tensors, growing=tuple(growths) if growing else (), graphs=[
            SimpleNamespace(template=0)], templates=[SimpleNamespace(nodes=nodes)],
        requirements=SimpleNamespace(memory=30 * GIB), target=target, ranks=ranks,
        workload=SimpleNamespace(settings={"max_len": 4096, "slots": 2, "kv_tokens": 0}),
    )  # fmt: skip
    return SimpleNamespace(manifest=manifest)


def gpu(monkeypatch: pytest.MonkeyPatch, total: int, free: int | None) -> None:
    load = SimpleNamespace(memory_total=total)
    found = SimpleNamespace(index=0, load=load, memory_free=free)
    monkeypatch.setattr(room, "_gpu", lambda: found)


def test_nothing_is_asked_for_by_default() -> None:
    for options in (Serving(), Options(prompt="Why?")):
        assert rows(bundle(), options) == rows(bundle(growing=False), options) == {}


def test_as_many_blocks_as_are_named() -> None:
    for blocks in (CAPTURED, 600, 4000):
        found = rows(bundle(), Serving(kv_blocks=blocks))
        assert found == dict.fromkeys(("draft.cache", "target.cache"), blocks + FIXED)
    for blocks in (CAPTURED - 1, 4001):
        with pytest.raises(UsageError, match=f"kv-blocks {blocks}: .* can have 512 to 4000 blocks"):
            rows(bundle(), Serving(kv_blocks=blocks))


@pytest.mark.parametrize(
    ("total", "free", "share", "nodes", "blocks"),
    [
        (100, 100, 0.9, 0, CAPTURED + (59 * GIB) // (2 * BLOCK)),
        (100, 50, 0.9, 0, CAPTURED + (19 * GIB) // (2 * BLOCK)),
        (100, None, 0.5, 0, CAPTURED + (19 * GIB) // (2 * BLOCK)),
        (100, 100, 0.9, GIB // (6 << 10), CAPTURED + (58 * GIB) // (2 * BLOCK)),
        (100, 20, 0.9, 0, CAPTURED),
        (100, 100, 1.0, 0, CAPTURED + (69 * GIB) // (2 * BLOCK)),
    ],
)  # fmt: skip
def test_as_many_as_a_share_of_the_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int,
    free: int | None, share: float, nodes: int, blocks: int,
) -> None:  # fmt: skip
    gpu(monkeypatch, total * GIB, None if free is None else free * GIB)
    wanted = bundle(most=1 << 30, nodes=nodes)
    found = rows(wanted, Serving(gpu_memory_utilization=share))
    assert set(found.values()) == {blocks + FIXED}
    said = capsys.readouterr().err
    assert f"caches: {blocks} blocks of 16 tokens; captured with {CAPTURED}" in said
    assert ("are free" in said) == (free is not None and free < share * total)
    assert set(rows(bundle(most=600), Serving(gpu_memory_utilization=share)).values()) <= {
        600 + FIXED, CAPTURED + FIXED
    }  # fmt: skip


@given(share=st.floats(0.32, 1.0), total=st.integers(100, 400))
def test_it_fits_and_is_as_much_as_fits(share: float, total: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        gpu(patch, total * GIB, total * GIB)
        options = Options(prompt="Why?", gpu_memory_utilization=share)
        more = rows(bundle(most=1 << 30), options)["target.cache"] - CAPTURED - FIXED
    left = int(share * total * GIB) - 31 * GIB
    assert more * 2 * BLOCK <= left < (more + 1) * 2 * BLOCK


def test_what_cannot_be_had_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, 100 * GIB, 100 * GIB)
    for asked in ({"kv_blocks": 600}, {"gpu_memory_utilization": 0.9}):
        with pytest.raises(UsageError, match="capture with --kv-most"):
            rows(bundle(growing=False), Serving(**asked))
        for other in ({"target": "host"}, {"ranks": "two"}):
            with pytest.raises(UsageError, match="capture with larger --kv-tokens"):
                rows(bundle(growing=False, **other), Serving(**asked))
        with pytest.raises(UsageError, match="keep the blocks of the capture: node 3 depends"):
            rows(bundle(refused="node 3 depends"), Serving(**asked))
    with pytest.raises(UsageError, match=r"0.3: 32.2 GB of GPU 0 is less than the 33.3 GB that"):
        rows(bundle(), Serving(gpu_memory_utilization=0.3))
    monkeypatch.undo()
    monkeypatch.setattr(room, "Nvml", _none)
    with pytest.raises(UsageError, match="give --kv-blocks"):
        rows(bundle(), Serving(gpu_memory_utilization=0.9))


def _none() -> object:
    raise room.NoNvml("none")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"kv_blocks": -1}, "kv-blocks: at least 0"),
        ({"gpu_memory_utilization": 1.1}, "a share, 0 to 1"),
        ({"gpu_memory_utilization": -0.1}, "a share, 0 to 1"),
        ({"gpu_memory_utilization": float("nan")}, "a share, 0 to 1"),
        ({"kv_blocks": 9, "gpu_memory_utilization": 0.9}, "one of them is enough"),
    ],
)
def test_options_that_mean_nothing_are_refused(asked: dict[str, Any], words: str) -> None:
    for make in (Serving, lambda **given: Options(prompt="Why?", **given)):
        with pytest.raises(UsageError, match=words):
            make(**asked)


def test_a_capture_allows_no_fewer_than_it_has() -> None:
    given = {"model": "m", "max_len": 100, "slots": 3}
    assert Settings(**given, kv_most=300).sizes().most_blocks > 3 * 7
    for few in ({"kv_most": 299}, {"kv_most": 199, "kv_tokens": 200}):
        with pytest.raises(UsageError, match="less than the capture's own"):
            Settings(**given, **few)
    with pytest.raises(UsageError, match="ranks keep the blocks"):
        Settings(**given, kv_most=300, tp=2)
