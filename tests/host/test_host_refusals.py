"""What a replay could not repeat is refused, by operator and line."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import _higher_order_ops

from foundryc.host.refuse import NotRecordable
from foundryc.recorder import Recorder
from foundryrt import Session
from foundryrt.errors import FoundryError, UsageError

OUTSIDE = torch.ones(3)
SCRIPT = torch.jit.script(torch.nn.Linear(3, 3).requires_grad_(False))
LAZY = torch.nn.LazyLinear(3)
ENCODER = torch.nn.TransformerEncoder(
    torch.nn.TransformerEncoderLayer(4, 2, 4, batch_first=True).requires_grad_(False), 1
).eval()


def drop(x: Any) -> Any:
    return F.dropout(x, 0.5)


def draw(x: Any) -> Any:
    return x + torch.rand(3)


def pick(x: Any) -> Any:
    return torch.multinomial(x.abs(), 1)


def find(x: Any) -> Any:
    return x.nonzero()


def mask(x: Any) -> Any:
    return x[x > 0]


def select(x: Any) -> Any:
    return torch.masked_select(x, x > 0)


def unique(x: Any) -> Any:
    return x.unique()


def item(x: Any) -> Any:
    return x[0].item()


def branch(x: Any) -> Any:
    return x if x.sum() > 0 else -x


def numpy(x: Any) -> Any:
    return torch.from_numpy(x.numpy())


def aslist(x: Any) -> Any:
    return torch.tensor(x.tolist())


def outside(x: Any) -> Any:
    return x + OUTSIDE


def meta(x: Any) -> Any:
    return torch.zeros(3, device="meta")


def sparse(x: Any) -> Any:
    return x.to_sparse()


def resize(x: Any) -> Any:
    return x.clone().resize_(9)


def grow(x: Any) -> Any:
    return torch.add(x, x, out=torch.empty(0))


def inside_torch(x: Any) -> Any:
    return torch.nn.Dropout(0.5).train()(x)


def cond(x: Any) -> Any:
    return torch.cond(x.sum() > 0, torch.neg, torch.abs, (x,))


def while_loop(x: Any) -> Any:
    return _higher_order_ops.while_loop(lambda a: a.sum() < 9, lambda a: (a + 1,), (x,))


def scan(x: Any) -> Any:
    return _higher_order_ops.scan(lambda c, a: (c + a, c * 1), x[0], x)[1]


def over(x: Any) -> Any:
    return _higher_order_ops.map(torch.neg, x)


def script(x: Any) -> Any:
    return SCRIPT(x)


def lazy(x: Any) -> Any:
    return LAZY(x)


def statistics(x: Any) -> Any:
    return F.batch_norm(x.expand(2, 3), torch.zeros(3), torch.ones(3), training=True)


def unlisted(x: Any) -> Any:
    return torch.lcm(x.int(), x.int())


CASES = [
    (cond, r"cond", "functions that a tape does not see"),
    (while_loop, r"while_loop", "functions that a tape does not see"),
    (scan, r"scan", "functions that a tape does not see"),
    (over, r"map", "functions that a tape does not see"),
    (script, r"aten::", "unrecorded memory"),
    (lazy, r"aten::", "lazy module"),
    (statistics, r"aten::", "running statistics"),
    (unlisted, r"aten::lcm", "none of the operators that a bundle may call"),
    (drop, r"aten::(bernoulli_|native_dropout)", "draws random numbers"),
    (draw, r"aten::rand\b", "draws random numbers"),
    (pick, r"aten::multinomial", "draws random numbers"),
    (find, r"aten::nonzero", "depends on the data"),
    (mask, r"aten::index.Tensor", "depends on the data"),
    (select, r"aten::masked_select", "depends on the data"),
    (unique, r"aten::_unique2", "depends on the data"),
    (item, r"aten::_local_scalar_dense", "into Python"),
    (branch, r"aten::_local_scalar_dense", "into Python"),
    (numpy, r"Tensor.numpy", "out of the graph"),
    (aslist, r"Tensor.tolist", "out of the graph"),
    (outside, r"aten::add.Tensor", "unrecorded memory"),
    (meta, r"aten::zeros", "uses device meta"),
    (sparse, r"aten::", "cannot be recorded"),
    (resize, r"aten::resize_", "memory"),
    (grow, r"aten::add.out", "resizes"),
    (inside_torch, r"aten::(bernoulli_|native_dropout)", "draws random numbers"),
]


@pytest.fixture
def recorder() -> Any:
    with Recorder(target="host", workload="test", settings={}) as made:
        yield made


@pytest.mark.parametrize(("body", "operator", "why"), CASES, ids=[c[0].__name__ for c in CASES])
def test_refused_by_name_and_line(
    recorder: Recorder, body: Callable[[Any], Any], operator: str, why: str
) -> None:
    x = recorder.register("x", torch.tensor([1.0, 2.0, -3.0]), role="input")
    line = inspect.getsourcelines(body)[1] + 1
    random_state = torch.get_rng_state()
    with pytest.raises(NotRecordable) as refused, recorder.graph("g") as g:
        g.output("y", body(x))
    assert re.match(operator, str(refused.value)), refused.value
    assert f"{__file__}:{line} " in str(refused.value)
    assert why in str(refused.value)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_refusal_leaves_recorder_and_torch_usable(recorder: Recorder) -> None:
    x = recorder.register("x", torch.ones(3), role="input")
    with pytest.raises(NotRecordable), recorder.graph("g") as g:
        g.output("early", x + 1)
        x.nonzero()
    assert torch.is_grad_enabled()
    assert x.nonzero().shape == (3, 1)
    with recorder.graph("g") as g:
        g.output("y", x * 2)
    assert g.outputs[0][0] == "y"


def test_padding_that_makes_nested_tensors_is_refused(recorder: Recorder) -> None:
    weights = {n: recorder.register(n, p, role="weight") for n, p in ENCODER.named_parameters()}
    x = recorder.register("x", torch.ones(1, 3, 4), role="input")
    refused = pytest.raises(NotRecordable, match=r"_nested_tensor_from_mask at .*enable_nested")
    with refused, recorder.graph("g"):
        padded = {"src_key_padding_mask": torch.tensor([[False, False, True]])}
        torch.func.functional_call(ENCODER, weights, x, padded)


def in_a_thread(call: Callable[[], Any]) -> None:
    """Run `call` to its end in another thread, whatever becomes of it."""

    def run() -> None:
        with contextlib.suppress(FoundryError):
            call()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("call", "method"),
    [
        (lambda x: float(x.sum()), "__float__"),
        (lambda x: x[0].item(), "item"),
        (lambda x: bool(x[0] > 0), "__bool__"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: x.tolist(), "tolist"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_thread_reads_while_a_graph_is_recorded(
    recorder: Recorder, call: Callable[[Any], Any], method: str
) -> None:
    x = recorder.register("x", torch.ones(3), role="input")
    refused = pytest.raises(NotRecordable, match=f"Tensor.{method} at .*{__file__}:.* thread")
    with refused, recorder.graph("g") as g:
        in_a_thread(lambda: call(x))
        g.output("y", x + 1)
    assert x.tolist() == [1, 1, 1]
    with recorder.graph("g") as g:
        g.output("y", x + 1)


@pytest.mark.parametrize("then", [lambda x: x + 1, lambda x: x.mul_(2)], ids=["read", "written"])
@pytest.mark.parametrize("inference", [False, True])
def test_another_thread_changes_a_tensor_while_a_graph_is_recorded(
    recorder: Recorder, then: Callable[[Any], Any], inference: bool
) -> None:
    x = recorder.register("x", torch.ones(3), role="state")

    def change() -> None:
        with torch.inference_mode(inference):
            x.add_(1)

    refused = pytest.raises(NotRecordable, match=f"the state 'x' at {__file__}:.* another thread")
    with refused, recorder.graph("g"):
        in_a_thread(change)
        then(x)


def test_a_tensor_viewed_in_place_is_no_change(recorder: Recorder) -> None:
    x = recorder.register("x", torch.ones(3, 2), role="state")
    with recorder.graph("g") as g:
        g.output("y", x.t_() * 2)


def test_one_thread_records_at_a_time(recorder: Recorder) -> None:
    refused: list[BaseException] = []

    def record() -> None:
        with Recorder(target="host", workload="test", settings={}) as other:
            try:
                with other.graph("g"):
                    pass
            except UsageError as error:
                refused.append(error)

    with recorder.graph("g"):
        in_a_thread(record)
    assert "one after another" in str(refused[0])


def test_weights_are_read_only(recorder: Recorder) -> None:
    w = recorder.register("w", torch.ones(3), role="weight")
    with pytest.raises(NotRecordable, match="writes to the weight 'w'"), recorder.graph("g"):
        w[1:].add_(1)


def test_results_of_another_graph_need_a_name(recorder: Recorder) -> None:
    x = recorder.register("x", torch.ones(3), role="input")
    with recorder.graph("first") as g:
        kept, lost = x + 1, x + 2
        g.output("kept", kept)
    with recorder.graph("second") as g:
        g.output("y", kept * 2)
    refused = pytest.raises(NotRecordable, match="graph first made and did not keep")
    with refused, recorder.graph("third") as g:
        g.output("y", lost * 2)


@pytest.mark.parametrize(
    "state", [lambda: torch.set_default_dtype(torch.float64),
              lambda: torch.set_float32_matmul_precision("medium")],
)  # fmt: skip
def test_numerics_that_a_replay_lacks_are_refused(
    recorder: Recorder, state: Callable[[], None]
) -> None:
    state()
    try:
        with pytest.raises(UsageError, match="set it back"), recorder.graph("g"):
            pass
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")


def test_what_depends_on_hidden_state_is_found_by_the_proof(recorder: Recorder) -> None:
    x = recorder.register("x", torch.ones(3), role="input")
    with pytest.raises(FoundryError, match="other bits in output 'y'"), recorder.graph("g") as g:
        y = x + 1
        # Written past the dispatcher, so that no node can repeat it.
        ctypes.memset(torch._C.TensorBase.data_ptr(y), 0, 4)
        g.output("y", y)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda r: r.register("x", torch.ones(1), role="parameter"), "role 'parameter'"),
        (lambda r: r.register("x", torch.ones(1, device="meta"), role="input"), "meta device"),
        (lambda r: r.register("x", [1.0], role="input"), "x: is a list; give a tensor"),
        (lambda r: r.register("x", torch.nested.nested_tensor([OUTSIDE]), "input"), "nested"),
        (lambda r: r.register("x", torch.ones(1), role="input", grows=9), "only state .* grows"),
        (lambda r: r.register("x\n", torch.ones(1), role="input"), "printable letters"),
        (lambda r: r.module([OUTSIDE]), "is a list; give a torch module"),
        (lambda r: r.module(torch.nn.LazyLinear(3)), "weight: has no shape yet"),
        (lambda r: r.module(torch.nn.Linear(1, 1), files="no file"), "no file: no such weight"),
        (lambda r: r.attach("f", 5), "file 'f': is a int; give its bytes"),
        (lambda r: r.attach("f", "text"), "file 'f': is a str; give its bytes"),
        (lambda r: r.save("x" * 300), "cannot be written: File name too long"),
        (lambda r: [r.register("x", torch.ones(1), role="input") for _ in "ab"], "two tensors"),
        (lambda r: Recorder(target="tpu", workload="t", settings={}), "host, cuda"),
        (lambda r: Recorder(target="host", workload="t", settings={"a": []}), "setting a"),
        (lambda r: Recorder(target="host", workload="t", settings={"a": 1 << 64}), "setting a=1"),
        (lambda r: Recorder(target="host", workload="", settings={}), "workload ''"),
        (lambda r: Recorder(target="host", workload="t", settings={}, base=1 << 46), "base 0x4"),
    ],
)
def test_wrong_calls_are_refused_at_once(
    recorder: Recorder, wrong: Callable[[Recorder], Any], message: str
) -> None:
    with pytest.raises(FoundryError, match=message):
        wrong(recorder)


@pytest.mark.parametrize("name", ["", "a\nb", 5, "a\udc80"])
def test_names_that_a_bundle_cannot_have_are_refused_at_once(recorder: Recorder, name: Any) -> None:
    x = recorder.register("x", torch.ones(1), role="input")
    with pytest.raises(UsageError, match="the graph"), recorder.graph(name):
        pass
    with pytest.raises(UsageError, match="graph g: output"), recorder.graph("g") as g:
        g.output(name, x + 1)


@pytest.mark.parametrize("value", [1.5, None, True, 1 << 64, "", "a\udc80", torch.tensor(1)])
def test_keys_that_a_bundle_cannot_have_are_refused_at_once(recorder: Recorder, value: Any) -> None:
    with pytest.raises(UsageError, match="graph g: batch"), recorder.graph("g", batch=value):
        pass


def test_any_word_can_be_in_a_key(recorder: Recorder, tmp_path: Path) -> None:
    key = {"name": "x", "self": np.int64(3)}
    recorder.attach("f", bytearray(b"x"))
    x = recorder.register("x", torch.ones(1), role="input")
    with recorder.graph("g", **key) as g:
        g.output("y", x + 1)
    with pytest.raises(UsageError, match="two graphs are named"), recorder.graph("g", **key):
        pass
    recorder.save(tmp_path / "x.fdy")
    with Session.open(tmp_path / "x.fdy") as session:
        assert session.graphs == [("g", {"name": "x", "self": 3})]
        session.graph("g", **key).launch()
        assert session.ready("g", **key) == 1


def test_nothing_but_the_graph_is_recorded_in_its_block(recorder: Recorder, tmp_path: Path) -> None:
    with recorder.graph("g", n=1):
        for wrong in (
            lambda: recorder.register("x", torch.ones(1), role="input"),
            lambda: recorder.save(tmp_path / "x.fdy"),
            lambda: recorder.graph("h").__enter__(),
        ):
            with pytest.raises(UsageError, match=r"inside the block of graph g\(n=1\)"):
                wrong()
    assert not [*tmp_path.iterdir()]


def test_a_weight_file_is_never_replaced(recorder: Recorder, tmp_path: Path) -> None:
    module = torch.nn.Linear(8, 8)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    recorder.module(module, files=[tmp_path / "model.safetensors"])
    (tmp_path / "link.fdy").symlink_to("model.safetensors")
    for name in ("model.safetensors", "link.fdy"):
        with pytest.raises(UsageError, match="is read, and would be replaced"):
            recorder.save(tmp_path / name)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_outputs_are_named_once_and_inside(recorder: Recorder) -> None:
    x = recorder.register("x", torch.ones(3), role="input")
    with recorder.graph("g") as g:
        y = x + 1
        g.output("y", y)
        with pytest.raises(UsageError, match="two inputs or outputs"):
            g.output("y", y)
        with pytest.raises(UsageError, match="not made by this graph"):
            g.output("z", OUTSIDE)
    with pytest.raises(UsageError, match="inside"):
        g.output("z", y)
    with pytest.raises(UsageError, match="two graphs"), recorder.graph("g"):
        pass


def test_a_cuda_graph_is_not_adopted_on_the_host() -> None:
    with (
        Recorder(target="host", workload="w", settings={}) as recorder,
        pytest.raises(UsageError, match="graph g: only --target cuda can adopt a CUDA graph"),
    ):
        recorder.adopt(1, {}, "g", batch=8)
