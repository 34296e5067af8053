"""Random programs: recorded, saved, replayed with other inputs, equal to the eager run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryc.recorder import Recorder
from foundryrt.session import Session

# Every step takes the live tensors (all 4 x 4 float32) and two picks, and may change them in place.
STEPS: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a @ b,
    lambda a, b: a.add_(b.clone() * 0.5),
    lambda a, b: a.t(),
    lambda a, b: a[1:3].repeat(2, 1),
    lambda a, b: torch.cat([a[:2], b[2:]]),
    lambda a, b: a.softmax(-1),
    lambda a, b: a.view(-1)[::4].expand(4, 4) if a.is_contiguous() else a.clone(),
    lambda a, b: a.fill_(0.25),
    lambda a, b: a.sort(-1).values,
    lambda a, b: torch.where(a > b, a, 0.0),
    lambda a, b: a.index_select(0, torch.tensor([3, 1, 1, 0])),
    lambda a, b: a.sum(0, keepdim=True) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + b,
    lambda a, b: a[1].copy_(b[0].clone()) + b,
    lambda a, b: a.double().cumsum(0).float(),
    lambda a, b: torch.empty(4, 4).copy_(a).clamp_(-1, 1),
    lambda a, b: torch.view_as_real(torch.fft.fft(a)[:, :2]).reshape(4, 4),
]


def writable(tensor: torch.Tensor) -> bool:
    return 0 not in tensor.stride()


def run(choices: list[tuple[int, int, int]], *start: torch.Tensor) -> list[torch.Tensor]:
    live = list(start)
    for step, i, j in choices:
        a, b = live[i % len(live)], live[j % len(live)]
        in_place = step in (2, 8, 13)
        result = STEPS[step](a if writable(a) or not in_place else a.clone(), b)
        live.append(result)
    return live[-4:]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
        max_size=12,
    )
)
def test_a_random_program_replays_equal(choices: list[tuple[int, int, int]]) -> None:
    g = torch.Generator().manual_seed(1)
    inputs = [torch.randn(4, 4, generator=g) for _ in range(3)]
    expected_state = torch.ones(4, 4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.fdy"
        with Recorder(target="host", workload="random", settings={}) as recorder:
            x = recorder.register("x", inputs[0], role="input")
            s = recorder.register("s", torch.ones(4, 4), role="state")
            with recorder.graph("g") as graph:
                results = run(choices, x, s)
                for i, tensor in enumerate(results):
                    graph.output(f"y{i}", tensor)
            recorder.save(path)
        with Session.open(path) as session:
            replayed = session.graph("g")
            for value in inputs:
                with torch.no_grad():
                    expected = run(choices, value.clone(), expected_state)
                session.write("x", value.numpy())
                replayed.launch()
                for i, tensor in enumerate(expected):
                    got = replayed.read(f"y{i}")
                    assert got.tobytes() == tensor.contiguous().numpy().tobytes(), (i, choices)
                assert session.read("s").tobytes() == expected_state.numpy().tobytes()
