"""What admitted operators take on trust is checked before they are called."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError
from foundryrt.host.admitted import NATIVE, OperatorNotAdmitted, admitted, check_name
from foundryrt.host.arena import Arena
from foundryrt.host.operators import operator
from foundryrt.host.overlap import is_disjoint
from foundryrt.host.replay import Tape, arena_view, bind

HERE = Path(__file__).parent
REALS = 1024
"""Where floats lie in the arena; integers lie at its begin."""


def call(name: str, *args: Any, results: Any = (), **kwargs: Any) -> None:
    """Prepare and run a call over an arena whose first ints are 0 to 99.

    A tensor is `("float32", address, sizes, strides)`.
    """
    arena = Arena(8192)
    arena.bytes[: 8 * 100] = torch.arange(100).view(torch.uint8).numpy()
    words: list[int] = []

    def form(value: Any) -> Any:
        match value:
            case ("dtype", str(name)):
                return ["d", name]
            case (str(dtype), int(address), tuple(sizes), tuple(strides)):
                words.extend((address, *sizes, *strides))
                return ["t", dtype, len(sizes), 0]
            case bool():
                words.append(value)
                return "b"
            case float():
                words.append(int.from_bytes(struct.pack("<d", value), "little"))
                return "f"
            case int():
                words.append(value & (1 << 64) - 1)
                return "i"
            case list():
                return ["l", *(form(item) for item in value)]
        return value

    positional = [form(value) for value in args]
    pairs = [[key, form(value)] for key, value in sorted(kwargs.items())]
    skeleton = msgspec.msgpack.encode([positional, pairs, [form(value) for value in results]])
    prepared = bind(name, skeleton, words, arena_view(arena))
    Tape("graph g", [prepared], 1).launch()


def real(*sizes: int, at: int = 0, strides: tuple[int, ...] | None = None) -> Any:
    return tensor("float32", REALS + at, sizes, strides)


def whole(*sizes: int, at: int = 0, strides: tuple[int, ...] | None = None) -> Any:
    return tensor("int64", at, sizes, strides)


def tensor(dtype: str, address: int, sizes: tuple[int, ...], strides: Any = None) -> Any:
    dense = tuple(torch.empty(sizes, device="meta").stride())
    return (dtype, address, sizes, dense if strides is None else strides)


BAG = "aten::_embedding_bag_forward_only"
NORM = "aten::_native_batch_norm_legit.no_stats"
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
UNFIT = "do not fit each other"

CASES: dict[str, tuple[Any, str]] = {
    "index beyond the table": (
        lambda: call(BAG, real(4, 2), whole(3, at=24), whole(2, strides=(1,))),
        "index is out of range",
    ),
    "offsets that fall": (
        lambda: call(BAG, real(9, 2), whole(3), whole(2, at=8)),
        "index is out of range",
    ),
    "no offsets": (lambda: call(BAG, real(9, 2), whole(3), whole(0)), UNFIT),
    "offsets with gaps": (lambda: call(BAG, real(9, 2), whole(6), whole(2, strides=(3,))), UNFIT),
    "scales of another length": (
        lambda: call(BAG, real(9, 2), whole(3), whole(1), per_sample_weights=real(2)),
        UNFIT,
    ),
    "statistics that are nowhere": (
        lambda: call(NORM, real(2, 3, 4), None, None, False, 0.5, 0.5),
        UNFIT,
    ),
    "dimensions beyond the rank": (
        lambda: call("aten::_fft_c2c", tensor("complex64", REALS, (4, 4)), [7], 0, True),
        UNFIT,
    ),
    "a spectrum of another length": (
        lambda: call("aten::_fft_c2r", tensor("complex64", REALS, (7,)), [0], 0, 4),
        UNFIT,
    ),
    "attention without keys": (
        lambda: call(ATTENTION, real(1, 2, 3, 4), real(1, 0, 3, 4), real(1, 0, 3, 4)),
        UNFIT,
    ),
    "a mask of another size": (
        lambda: call(ATTENTION, *[real(1, 2, 3, 4)] * 3, attn_mask=real(3, 2)),
        UNFIT,
    ),
    "pivots of another length": (
        lambda: call("aten::lu_unpack", real(4, 4), tensor("int32", 0, (2,))),
        UNFIT,
    ),
    "gradients of another shape": (
        lambda: call(
            "aten::_softmax_backward_data", real(5, 5), real(5, 1), 0, ("dtype", "float32")
        ),
        UNFIT,
    ),
    "a class that is not": (
        lambda: call(
            "aten::nll_loss_backward", real(2), real(2, 3), whole(2, at=80), None, 0, -100,
            real(), results=[real(2, 3, at=256)],
        ),
        "index is out of range",
    ),
    "padding of one number": (
        lambda: call("aten::reflection_pad1d", real(2, 6), [1]),
        "its padding has 1 numbers, not 2",
    ),
    "an output that overlaps itself": (
        lambda: call("aten::exp.out", real(4), out=real(4, at=64, strides=(0,))),
        "overlaps itself",
    ),
    "two outputs in one place": (
        lambda: call(
            "aten::sort.values", real(4), 0, False, values=real(4, at=64),
            indices=tensor("int64", REALS + 64, (4,)),
        ),
        "that it writes overlap",
    ),
    "an output over the indices": (
        lambda: call(
            "aten::gather.out", tensor("int64", REALS, (4,)), 0, whole(4), out=whole(4, at=8)
        ),
        "writes over its own indices",
    ),
    "an output that would grow over the indices": (
        lambda: call(
            "aten::index_select.out", tensor("int64", REALS, (4,)), 0, whole(4, at=64),
            out=whole(0, at=56),
        ),
        "not resizable",
    ),
    "a number that is a tensor": (
        lambda: call("aten::cumsum", real(4), whole(), results=[real(4, at=64)]),
        "its dim is a tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_before_it_is_called(case: str) -> None:
    run, message = CASES[case]
    with pytest.raises(FoundryError, match=message):
        run()


def test_what_fits_runs() -> None:
    call(BAG, real(9, 2), whole(3), whole(1), results=[real(1, 2, at=256), None, None, None])
    call(ATTENTION, *[real(1, 2, 3, 4)] * 3, results=[real(1, 2, 3, 4, at=512), None])


def test_the_list() -> None:
    lines = (HERE.parents[1] / "foundryrt/host/operators.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert names == sorted(set(names))
    assert len(names) == len(admitted() - NATIVE) > 1000
    for name in admitted():
        op = operator(name)
        # A view would be a tensor of the bundle's own making.
        assert not any(r.alias_info and not r.alias_info.is_write for r in op._schema.returns), name


def test_the_golden_bundle_calls_what_is_admitted() -> None:
    with Bundle.open(HERE.parents[1] / "artifacts/v1-host-steps.fdy") as bundle:
        for function in bundle.manifest.functions:
            check_name(function.name)


@settings(max_examples=30)
@given(st.text(max_size=20))
def test_any_other_name_is_refused(name: str) -> None:
    if f"aten::{name}" not in admitted():
        with pytest.raises(OperatorNotAdmitted):
            check_name(f"aten::{name}")


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), max_size=4))
def test_disjoint_means_that_no_two_elements_share_memory(dims: list[tuple[int, int]]) -> None:
    sizes, strides = [n for n, _ in dims], [step for _, step in dims]
    view = torch.arange(200).as_strided(sizes, strides)
    if is_disjoint(view):
        assert view.unique().numel() == view.numel()
    if view.is_contiguous() or not dims:
        assert is_disjoint(view)
