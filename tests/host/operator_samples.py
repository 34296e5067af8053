"""Host tapes of torch's own operator and module samples: what captures produce, as a corpus.

By hand: `PYTHONPATH=. python tests/host/operator_samples.py CORPUS [PART/PARTS]` (needs
`expecttest`, which torch.testing imports). CORPUS gets MessagePack of `[function, skeleton, words,
bytes of the arena]`: the input of fuzz_operators.py and, by its names, of operator_list.py.
"""

from __future__ import annotations

import operator
import signal
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_flatten, tree_map

import foundryc.host.overload
import foundryc.host.tape
import foundryrt.host.admitted
from foundryc.host.buffers import Buffer
from foundryc.host.encode import Encoded
from foundryc.host.recording import HostRecording
from foundryc.host.tape import Tape

_ASKING: Any = (foundryc.host.tape, foundryc.host.overload, foundryrt.host.admitted)
REFUSED = {"aten::set_", "aten::resize_", "aten::from_file"}

SAMPLES = {
    torch.float32: 40, torch.int64: 8, torch.complex64: 8, torch.bool: 6, torch.bfloat16: 6,
    torch.float64: 4, torch.uint8: 3,
}  # fmt: skip
GRADIENTS = 6
KEPT = 24
"""Calls kept of one operator: of different argument structures first."""
LARGEST = 1 << 18
SECONDS = 10

Entry = tuple[str, bytes, list[int], bytes]


PLAIN: list[Encoded] = []
"""Calls of the last recording before an overload with outputs took their place."""


class _Tape(Tape):
    def _has_out(self, op: Any, node: Any, encoded: Encoded, *rest: Any) -> bool:
        PLAIN.append(encoded)
        return super()._has_out(op, node, encoded, *rest)


class Corpus:
    """Recorded calls by operator, with an arena for each."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[tuple[bytes, tuple[int, ...]], Entry]] = defaultdict(dict)
        self.tried = self.recorded = 0
        self.failures: list[str] = []

    def record(self, label: str, body: Callable[..., Any], *values: Any) -> None:
        """Record `body(*values)`; every tensor in `values` becomes an input."""
        self.tried += 1
        recording = HostRecording()
        count = 0

        def register(value: Any) -> Any:
            nonlocal count
            if not isinstance(value, torch.Tensor):
                return value
            count += 1
            return recording.register(f"x{count}", value.detach(), "state")

        signal.alarm(SECONDS)
        PLAIN.clear()
        try:
            inputs = tree_map(register, values)
            start = {b: bytes(t.numpy()) for b, t in recording._initial.items()}
            with recording.graph("g") as graph:
                for i, tensor in enumerate(tree_flatten(body(*inputs))[0]):
                    if isinstance(tensor, torch.Tensor):
                        graph.output(f"y{i}", tensor.detach())
            self.recorded += 1
        except Exception as error:
            self.failures.append(f"{label}: {type(error).__name__} {error}".partition("\n")[0])
            return
        finally:
            signal.alarm(0)
        for call in (*recording._graphs[0].calls, *PLAIN):
            self._keep(call, start)

    def _keep(self, call: Any, start: dict[Buffer, bytes]) -> None:
        known = self.calls[call.function]
        places: dict[Buffer, int] = {}
        end = 0
        words = list(call.words)
        for word, buffer in call.addresses:
            if buffer not in places:
                places[buffer] = end
                end += -(-buffer.nbytes // 64) * 64
            words[word] += places[buffer]
        structures = {skeleton for skeleton, _ in known}
        full = len(known) >= KEPT and (call.skeleton in structures or len(known) >= 2 * KEPT)
        if full or end > LARGEST:
            return
        arena = np.zeros(end, np.uint8)
        for buffer, place in places.items():
            data = start.get(buffer, b"") or buffer.data
            arena[place : place + len(data)] = np.frombuffer(data, np.uint8)
        known[call.skeleton, tuple(words)] = (call.function, call.skeleton, words, arena.tobytes())


def operators(part: int, parts: int) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Forward, in-place and out calls of every sample, and gradients of some."""
    for info in op_db[part::parts]:
        for dtype, most in SAMPLES.items():
            if dtype not in info.supported_dtypes("cpu"):
                continue
            try:
                samples = info.sample_inputs("cpu", dtype)
                found = [s for s, _ in zip(samples, range(most), strict=False)]
            except Exception:
                continue
            for i, s in enumerate(found):
                values = (s.input, s.args, s.kwargs)
                yield info.full_name, lambda x, a, k, f=info.op: f(x, *a, **k), values
                for variant in (info.get_inplace(),):
                    if variant is not None:
                        yield f"{info.full_name}_", lambda x, a, k, f=variant: f(x, *a, **k), values
                if dtype == torch.float32 and info.supports_autograd and i < GRADIENTS:
                    yield f"{info.full_name} gradient", _gradient(info.op), values


def others(part: int, parts: int) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """What the samples leave out."""
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    encoder.requires_grad_(False)
    lstm = torch.nn.LSTM(4, 6, 2).eval()
    lstm.requires_grad_(False)
    for module, x in ((encoder, torch.randn(2, 4, 8)), (lstm, torch.randn(3, 2, 4))):

        def body(parameters: Any, x: Any, module: Any = module) -> Any:
            return torch.func.functional_call(module, parameters, x)

        yield type(module).__name__, body, (dict(module.named_parameters()), x)
    image = torch.randn(1, 2, 9, 7)
    for mode in ("bilinear", "bicubic"):
        for size in ((4, 5), (12, 3)):
            yield (
                "antialias",
                lambda x, s=size, m=mode: torch.nn.functional.interpolate(
                    x, s, mode=m, antialias=True
                ),
                (image,),
            )
    x, n = torch.randn(4, 4), torch.randint(0, 9, (4, 3))
    few: dict[Callable[..., Any], tuple[torch.Tensor, ...]] = {
        lambda n: (n >> 1, n << 1, n >> n, n << n): (n,),
        lambda n: operator.ilshift(operator.irshift(n, 1), n): (n,),
        lambda n: operator.irshift(operator.ilshift(n, 1), n): (n,),
        torch.linalg.eigvals: (x,),
        torch._addmm_activation: (x, x, x),
        torch._weight_norm: (x, x[:, :1]),
        lambda t: torch.nn.functional.affine_grid(t, [2, 3, 4, 5]): (torch.randn(2, 2, 3),),
        torch.func.functionalize(lambda x: x + torch.tensor([1.0])): (x,),
        lambda x: torch.ops.aten._native_batch_norm_legit_no_training(
            x, None, None, x[0], x[1] ** 2, 0.1, 1e-5
        ): (x,),
    }
    for body, values in few.items():
        yield "few", body, values
    a, b = (torch.randint(-9, 9, (32, 32), dtype=torch.int8) for _ in "ab")
    yield "int8", torch._int_mm, (a, b)
    scales = torch.rand(32).bfloat16()
    yield "int8", torch._weight_int8pack_mm, (torch.randn(32, 32).bfloat16(), a, scales)


def lists(part: int, parts: int) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Operators on lists of tensors, which optimizers call."""
    names = [name for name in vars(common_methods_invocations) if name.startswith("foreach_")]
    infos = [i for n in sorted(names) if n.endswith("_db") for i in getattr(
        common_methods_invocations, n)]  # fmt: skip
    for info in infos[part::parts]:
        for dtype in (torch.float32, torch.int64, torch.complex64):
            try:
                samples = list(info.sample_inputs("cpu", dtype, noncontiguous=False))[:12]
            except Exception:
                continue
            for s in samples:
                values = (s.input, s.args, s.kwargs)
                for variant in (info.method_variant, info.inplace_variant):
                    if variant is not None:
                        yield info.name, lambda x, a, k, f=variant: f(x, *a, **k), values


def _gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    def body(x: Any, a: Any, k: Any) -> Any:
        leaves = [
            t for t in tree_flatten((x, a, k))[0]
            if isinstance(t, torch.Tensor) and t.is_floating_point()
        ]  # fmt: skip
        with torch.enable_grad():
            for leaf in leaves:
                leaf.requires_grad_()
            made = [y for y in tree_flatten(function(x, *a, **k))[0] if y.is_floating_point()]
            total = sum((y * y).sum() for y in made)
            return torch.autograd.grad(total, leaves, allow_unused=True)

    return body


def modules(part: int, parts: int) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Modules of torch.nn in eval mode, by their own samples."""
    for info in module_db[part::parts]:
        try:
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=False, training=False
            )
        except Exception:
            continue
        for made in list(inputs)[:8]:
            if made.forward_input is None:
                continue
            try:
                args, kwargs = made.constructor_input.args, made.constructor_input.kwargs
                module = info.module_cls(*args, **kwargs).eval()
            except Exception:
                continue

            def body(parameters: Any, a: Any, k: Any, module: Any = module) -> Any:
                return torch.func.functional_call(module, parameters, a, k)

            state = dict(module.named_parameters()) | dict(module.named_buffers())
            yield (
                info.name, body,
                (state, made.forward_input.args, made.forward_input.kwargs),
            )  # fmt: skip


def main(path: str, share: str = "0/1") -> None:
    """Write the corpus; say what was recorded and what was not."""
    import foundryc.host.recording

    warnings.simplefilter("ignore")
    part, parts = map(int, share.split("/"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for module in _ASKING:
        module.admitted = _Anything
    foundryc.host.recording.Tape = _Tape
    signal.signal(signal.SIGALRM, _too_slow)
    corpus = Corpus()
    for kind in (modules, others, lists, operators):
        for label, body, values in kind(part, parts):
            corpus.record(label, body, *values)
    entries = [entry for calls in corpus.calls.values() for entry in calls.values()]
    Path(path).write_bytes(msgspec.msgpack.encode(entries))
    print(f"{corpus.recorded} of {corpus.tried} samples, {len(corpus.calls)} operators")
    Path(path + ".failures").write_text("\n".join(corpus.failures) + "\n")


class _Anything:
    def __contains__(self, name: object) -> bool:
        return name not in REFUSED


def _too_slow(*_: Any) -> None:
    raise TimeoutError("took too long")


if __name__ == "__main__":
    main(*sys.argv[1:])
