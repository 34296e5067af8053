"""In a replay all tensors share one storage: what ATen asks of storages must not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from foundryc.recorder import Recorder
from foundryrt.session import Session

Body = Callable[..., Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def results(value: Any) -> Sequence[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def check(body: Body, *inputs: Tensor) -> None:
    """A replay gives the bits of the eager run, for the recorded inputs and for others."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.fdy"
        with Recorder("host", workload="storage", settings={}) as recorder:
            # So that no tensor begins where the arena does.
            recorder.register("first", torch.ones(3), role="state")
            given = [recorder.register(f"x{i}", t, role="input") for i, t in enumerate(inputs)]
            with recorder.graph("g") as g:
                for i, y in enumerate(results(body(*given))):
                    g.output(f"y{i}", y)
            recorder.save(path)
        with Session.open(path) as session:
            for seed in (1, 2):
                fresh = [numbers(*t.shape, seed=seed) for t in inputs]
                with torch.no_grad():
                    expected = [y.clone() for y in results(body(*(t.clone() for t in fresh)))]
                for i, t in enumerate(fresh):
                    session.write(f"x{i}", t.numpy())
                session.graph("g").launch()
                for i, y in enumerate(expected):
                    got = session.graph("g").read(f"y{i}")
                    assert got.tobytes() == y.resolve_conj().contiguous().numpy().tobytes()


def strided(x: Tensor) -> Tensor:
    y = x * 2
    torch.as_strided(y, (2, 2), (2, 1), 3).add_(1)
    return y


def several(x: Tensor) -> Tensor:
    y = x * 2
    y[1].add_(1)
    y.t()[2:].mul_(2)
    torch.diagonal(y).zero_()
    return y


def foreach(x: Tensor) -> Tensor:
    torch._foreach_copy_([x[0], x[1]], [x[2] * 2, x[3]])
    return x * 1


ENCODER = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
).eval()


def encoder(x: Tensor, *parameters: Tensor) -> Any:
    padded = torch.tensor([[False] * 4, [False, False, True, True]])
    named = dict(zip((n for n, _ in ENCODER.named_parameters()), parameters, strict=True))
    return torch.func.functional_call(ENCODER, named, x, {"src_key_padding_mask": padded})


PROGRAMS: dict[str, tuple[Body, tuple[int, ...]]] = {
    "qr, square": (torch.linalg.qr, (5, 5)),
    "qr, tall": (torch.linalg.qr, (6, 4)),
    "svd": (torch.linalg.svd, (4, 4)),
    "as_strided_copy": (lambda x: torch.as_strided_copy(x, (2, 2), (2, 1), 3), (5, 5)),
    "as_strided_copy of a view": (lambda x: torch.as_strided_copy(x[1:], (2, 2), (2, 1)), (5, 5)),
    "as_strided_scatter": (
        lambda x: torch.as_strided_scatter(x * 1, torch.ones(2, 2), (2, 2), (2, 1), 3),
        (5, 5),
    ),
    "as_strided_scatter of a view": (
        lambda x: torch.as_strided_scatter(x[1:], torch.ones(2, 2), (2, 2), (2, 1)),
        (5, 5),
    ),
    "select_scatter": (lambda x: torch.select_scatter(x.t()[1:], x[0], 0, 1), (5, 5)),
    "slice_scatter": (lambda x: torch.slice_scatter(x.t()[1:], x[:2], 0, 1, 3), (5, 5)),
    "diagonal_scatter": (lambda x: torch.diagonal_scatter(x, x[0]), (5, 5)),
    "functionalize, as_strided": (torch.func.functionalize(strided), (5, 5)),
    "functionalize, views": (torch.func.functionalize(several), (5, 5)),
    "one element of an odd stride": (lambda x: (x * 2)[:1][:, -1], (5, 5)),
    "one element, transposed": (lambda x: (x + 1)[:1, -1:].t(), (5, 5)),
    "one element, real": (lambda x: torch.complex(x[:1, :1], x[:1, :1]).real, (5, 5)),
    "one element, diagonal": (lambda x: (x[:1, :1] + 1).diagonal(), (5, 5)),
    "empty, at the arena's end": (lambda x: [x[5:, 1:], (x * 2)[5:, 1:]], (5, 5)),
    "empty": (lambda x: x * 2, (0, 3)),
    "instance norm": (nn.InstanceNorm2d(3).eval(), (2, 3, 4, 4)),
    "batch norm of its batch": (
        nn.BatchNorm1d(4, affine=False, track_running_stats=False).eval(),
        (6, 4),
    ),
    "foreach_copy": (foreach, (4, 5)),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_replay_is_the_eager_run(program: str) -> None:
    body, shape = PROGRAMS[program]
    check(body, numbers(*shape))


def test_padded_positions_of_an_encoder() -> None:
    check(encoder, numbers(2, 4, 8), *(p.detach() for p in ENCODER.parameters()))


def test_nothing_but_empty_tensors(tmp_path: Path) -> None:
    with Recorder("host", workload="storage", settings={}) as recorder:
        x = recorder.register("x", torch.zeros(0, 3), role="input")
        with recorder.graph("g") as g:
            g.output("y", x * 2)
        recorder.save(tmp_path / "a.fdy")
    with Session.open(tmp_path / "a.fdy") as session:
        session.graph("g").launch()
        assert session.graph("g").read("y").shape == (0, 3)


def test_a_proof_leaves_registered_tensors_as_recording_did() -> None:
    with Recorder("host", workload="storage", settings={}) as recorder:
        x = recorder.register("x", torch.arange(6.0), role="state")
        for name in ("first", "second"):
            with recorder.graph(name) as g:
                x.mul_(2)
                g.output("y", x[2:] + 1)
        assert x.tolist() == [0, 4, 8, 12, 16, 20]


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Sizes, strides and offset of a view inside 30 elements."""
    sizes = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    strides = tuple(draw(st.integers(0, 5)) for _ in sizes)
    last = sum(max(n - 1, 0) * step for n, step in zip(sizes, strides, strict=True))
    return sizes, strides, draw(st.integers(0, 29 - min(last, 29)))


@settings(max_examples=40)
@given(windows(), st.sampled_from(["view", "copy", "scatter"]), st.integers(0, 2))
def test_any_window_of_a_storage(
    window: tuple[tuple[int, ...], tuple[int, ...], int], use: str, first: int
) -> None:
    sizes, strides, offset = window

    def body(x: Tensor) -> Tensor:
        source = (x + 1)[first:]
        if use == "view":
            return source.as_strided(sizes, strides, offset)
        if use == "copy":
            return torch.as_strided_copy(source, sizes, strides, offset)
        return torch.as_strided_scatter(source, torch.zeros(sizes), sizes, strides, offset)

    try:
        body(numbers(6, 5))
    except RuntimeError:
        # ATen refuses to write to elements that share memory.
        assume(False)
    check(body, numbers(6, 5))
