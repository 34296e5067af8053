"""Recorder.program: graphs inside a program, over memory that nobody registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from foundryc import Recorder
from foundryc.host.refuse import NotRecordable
from foundryrt import Session, UsageError


def recorder() -> Recorder:
    return Recorder("host", workload="program", settings={})


def test_memory_from_before_the_graphs_begins_as_they_found_it(tmp_path: Path) -> None:
    with recorder() as r, r.program():
        weight, x = torch.randn(4, 3), torch.randn(2, 4)
        total = torch.full((2, 3), 5.0)
        untouched = torch.randn(1 << 20)
        for batch in (1, 2):
            rows = x[:batch]
            with r.graph("step", batch=batch) as g:
                g.input("x", rows)
                total[:batch] += rows @ weight
                g.output("y", total[:batch] * 2)
            # What the program does between graphs is not theirs.
            total.mul_(100)
            x.zero_()
        r.keep("total", total)
        r.save(tmp_path / "a.fdy")
    with Session.open(tmp_path / "a.fdy") as session:
        assert (session.read("total") == 5).all()
        one, two = (session.graph("step", batch=batch) for batch in (1, 2))
        # `x` of both is one memory, as in the program.
        assert (one.read("x") == two.read("x")[:1]).all() and two.read("x").any()
        given = torch.randn(2, 4)
        two.write("x", given.numpy())
        expected = torch.full((2, 3), 5.0)
        for graph, batch in ((two, 2), (one, 1), (two, 2)):
            expected[:batch] += given[:batch] @ weight
            graph.launch()
            want = (expected[:batch] * 2).numpy()
            assert graph.read("y").tobytes() == want.tobytes()
        assert session.read("total").tobytes() == expected.numpy().tobytes()
    assert (tmp_path / "a.fdy").stat().st_size < untouched.nbytes / 10


def test_kept_memory_begins_with_what_it_held_before_the_next_graph(tmp_path: Path) -> None:
    with recorder() as r, r.program():
        filled, unused = torch.zeros(2), torch.zeros(2)
        for name, tensor in (("filled", filled), ("unused", unused)):
            r.keep(name, tensor)
            tensor.fill_(3)
        with r.graph("g"):
            filled.add_(1)
        unused.fill_(4)
        r.save(tmp_path / "a.fdy")
    with Session.open(tmp_path / "a.fdy") as session:
        assert session.read("filled").tolist() == session.read("unused").tolist() == [3, 3]


def test_a_result_that_a_later_graph_takes(tmp_path: Path) -> None:
    with recorder() as r, r.program():
        x = torch.randn(3)
        with r.graph("first") as g:
            g.input("x", x)
            y = x * 2
            g.output("y", y)
        r.keep("y", y)
        with r.graph("second") as g:
            g.input("given", y)
            g.output("z", y + 1)
        r.save(tmp_path / "a.fdy")
    with Session.open(tmp_path / "a.fdy") as session:
        session.graph("first").write("x", np.arange(3, dtype=np.float32))
        session.graph("first").launch()
        session.graph("second").launch()
        assert session.read("y").tolist() == [0, 2, 4]
        assert session.graph("second").read("given").tolist() == [0, 2, 4]
        assert session.graph("second").read("z").tolist() == [1, 3, 5]


def test_a_module_kept_and_its_memory_used_at_once(tmp_path: Path) -> None:
    net = torch.nn.Linear(4, 2).eval()
    with torch.inference_mode(), recorder() as r, r.program():
        r.module(net, prefix="net.")
        x = torch.randn(1, 4)
        with r.graph("g") as g:
            g.output("y", net(x))
        r.save(tmp_path / "a.fdy")
    with Session.open(tmp_path / "a.fdy") as session:
        session.graph("g").launch()
        assert {t.name for t in session.tensors} == {"net.weight", "net.bias", "y"}
        expected = net(x.clone()).detach().numpy()
        assert session.graph("g").read("y").tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("made", "input 'made' is no memory from before this graph"),
        ("conjugate", "is a conjugate or negative view"),
        ("twice", "two inputs or outputs are named 'twice'"),
    ],
)
def test_inputs_that_cannot_be(name: str, message: str) -> None:
    x = torch.randn(3, dtype=torch.complex64)
    with recorder() as r, r.program(), pytest.raises(UsageError, match=message), r.graph("g") as g:
        if name == "twice":
            g.input(name, x)
        g.input(name, {"made": x * 2, "conjugate": x.conj(), "twice": x}[name])


def test_outside_a_program_memory_is_registered() -> None:
    x = torch.randn(3)
    with recorder() as r:
        with pytest.raises(NotRecordable, match="register the tensor"), r.graph("g"):
            x * 2
        with pytest.raises(UsageError, match="keep tensors in a program"):
            r.keep("x", x)
        with pytest.raises(UsageError, match="no memory from before"), r.graph("g") as g:
            g.input("x", x)


def test_what_a_graph_made_and_did_not_keep_is_named() -> None:
    def second(r: Recorder, y: Tensor) -> None:
        with r.graph("second"):
            y + 1

    with recorder() as r, r.program():
        x = torch.randn(3)
        with r.graph("first"):
            y = x * 2
        with pytest.raises(UsageError, match="graph first made it"):
            r.keep("y", y)
        with pytest.raises(NotRecordable, match=r"name it there with output\(\)"):
            second(r, y)
        with pytest.raises(UsageError, match="memory that graph first uses"):
            r.register("x", x, "weight")
