"""Small programs for the capture tests.

`python host_programs.py FOLDER NAME ...` records each program as NAME.fdy, runs it eagerly on the
inputs of every step, and stores these and all outputs as NAME.npz (bits as numpy sees them).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

STEPS = 3


@dataclass
class Program:
    """`body(*inputs, *states)` returns named outputs; states are updated in place."""

    body: Callable[..., dict[str, torch.Tensor]]
    inputs: dict[str, torch.Tensor]
    states: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def step_inputs(program: Program, step: int) -> dict[str, torch.Tensor]:
    """Inputs of launch `step`: other numbers, the same shapes; integers stay in their range."""
    made = {}
    for i, (name, like) in enumerate(program.inputs.items()):
        g = generator(100 * step + i + 1)
        if like.dtype.is_floating_point or like.dtype.is_complex:
            made[name] = torch.randn(like.shape, generator=g, dtype=like.dtype)
        elif like.dtype == torch.bool:
            made[name] = torch.rand(like.shape, generator=g) < 0.5
        else:
            made[name] = torch.randint(0, 4, like.shape, generator=g, dtype=like.dtype)
    return made


def attention() -> Program:
    def body(x, position, keys, values, wq, wk, wv, wo):
        b, d = x.shape
        q, k, v = (F.linear(x, w).view(b, 2, d // 2) for w in (wq, wk, wv))
        keys.index_copy_(1, position, k.unsqueeze(1))
        values[:, position] = v.unsqueeze(1)
        steps = torch.arange(keys.shape[1])
        mask = torch.where(steps <= position, 0.0, float("-inf"))
        scores = torch.einsum("bhd,blhd->bhl", q, keys) * (d // 2) ** -0.5 + mask
        mixed = torch.einsum("bhl,blhd->bhd", scores.softmax(-1), values).reshape(b, d)
        hidden = x + F.linear(mixed, wo)
        normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)
        return {"hidden": normed, "last": normed[-1], "keys_view": keys.transpose(1, 2)}

    return Program(
        body,
        {"x": normal(3, 16), "position": torch.tensor([2])},
        {"keys": torch.zeros(3, 6, 2, 8), "values": torch.zeros(3, 6, 2, 8)},
        {f"w{n}": normal(16, 16, seed=i) for i, n in enumerate("qkvo")},
    )


def sdpa() -> Program:
    def body(q, k, v):
        causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        masked = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return {"causal": causal.transpose(1, 2).reshape(2, 5, 16), "masked": masked}

    return Program(body, {n: normal(2, 2, 5, 8) for n in "qkv"})


def convolution() -> Program:
    def body(x, w, bias, scale):
        y = F.conv2d(x, w, bias, stride=2, padding=1).relu_()
        pooled = F.max_pool2d(y, 2)
        normed = F.batch_norm(y, bias, scale, training=False)
        return {
            "y": y,
            "pooled": pooled,
            "normed": normed,
            "resized": F.interpolate(y, scale_factor=2),
        }

    weights = {"w": normal(4, 3, 3, 3), "bias": normal(4), "scale": normal(4).abs() + 1}
    return Program(body, {"x": normal(1, 3, 16, 16)}, weights=weights)


def complex_numbers() -> Program:
    def body(z, x):
        spectrum = torch.fft.fft(z, norm="ortho")
        back = torch.fft.ifft(spectrum.conj() * z.imag.neg())
        product = z @ z.mH
        z2 = torch.view_as_complex(torch.stack([x, x + 1], -1).contiguous())
        return {
            "spectrum": spectrum,
            "shifted": torch.fft.fftshift(back),
            "product": product,
            "conjugate": product.conj(),
            "abs": z2.abs() + torch.view_as_real(z)[..., 0],
            "rfft": torch.fft.irfft(torch.fft.rfft(x), n=8),
            "scaled": z2 * (1 + 2j),
        }

    return Program(body, {"z": normal(4, 8, dtype=torch.complex64), "x": normal(4, 8)})


def indexing() -> Program:
    def body(x, i, table):
        y = torch.zeros(4, 6)
        y[i, :3] = x[:, :3]
        y.index_put_((i,), x, accumulate=True)
        y[x > 0] = 0.25
        gathered = x.gather(1, i.view(4, 1).expand(4, 2))
        table.scatter_(0, i.view(4, 1).expand(4, 6), x)
        table[1:3, ::2] += 1
        embedded = F.embedding(i, table)
        return {
            "y": y,
            "gathered": gathered,
            "embedded": embedded,
            "where": x.masked_fill(x > 1, 9),
        }

    inputs = {"x": normal(4, 6), "i": torch.tensor([0, 1, 2, 3])}
    return Program(body, inputs, {"table": normal(4, 6, seed=5)})


def selection() -> Program:
    def body(x):
        values, indices = x.topk(3)
        ordered, order = x.sort(dim=0, descending=True)
        largest, at = x.max(dim=1)
        return {
            "values": values,
            "indices": indices,
            "order": order,
            "best": x.argmax(-1),
            "largest": largest + at,
            "cumulative": ordered.cumsum(-1),
            "spread": torch.std(x, dim=1) + x.logsumexp(1) + torch.median(x, 1).values,
            "log": x.log_softmax(-1),
        }

    return Program(body, {"x": normal(5, 9)})


def dtypes() -> Program:
    def body(x, n, flag):
        half = x.to(torch.bfloat16)
        return {
            "bfloat16": half @ half.T,
            "float16": x.half(),
            "double": x.double().sum(),
            "int": (x * 10).int() // 3,
            "mixed": n + x,
            "logic": flag & (n > 1),
            "ratio": n / 3,
            "bytes": x.view(torch.int32) ^ 1,
            "scalar": n.sum() * 2 + 1,
        }

    inputs = {"x": normal(4, 4), "n": torch.arange(4), "flag": torch.tensor([True, False] * 2)}
    return Program(body, inputs)


def in_place() -> Program:
    def body(x, total):
        a = x.clone()
        a.add_(1).mul_(2)
        b = a.view(2, 8)
        b[0].sub_(b[1])
        a[1:, 1:].copy_(a[:-1, :-1].clone())
        out = torch.empty(4, 4)
        torch.add(a, x, out=out)
        steps = torch.tensor([1.0, 2.0, 3.0, 4.0])
        steps.add_(x[0])
        total += out.sum()
        total.clamp_(-50, 50)
        return {"a": a, "diagonal": a.diagonal(), "out": out, "steps": steps, "same": total}

    return Program(body, {"x": normal(4, 4)}, {"total": torch.tensor(1.5)})


def aliases() -> Program:
    def body(x, state):
        y = x * 2
        flat = y.reshape(-1)
        return {
            "input": x,
            "view_of_input": x.T[1:],
            "y": y.contiguous(),
            "flat": flat[3:],
            "window": flat.unfold(0, 4, 2),
            "expanded": y[0].expand(3, 6),
            "state": state.float(),
            "constant": torch.tensor([1, 2, 3]),
            "array": torch.from_numpy(np.array([4, 5])),
        }

    return Program(body, {"x": normal(4, 6)}, {"state": normal(3)})


def layers() -> Program:
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Dropout(0.5),
        torch.nn.Linear(16, 4), torch.nn.GroupNorm(2, 4),
    ).eval()  # fmt: skip
    weights = {f"p{i}": normal(*p.shape, seed=i) for i, p in enumerate(net.parameters())}
    names = [name for name, _ in net.named_parameters()]

    def body(x, *parameters):
        return {"y": torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), x)}

    return Program(body, {"x": normal(3, 8)}, weights=weights)


def inference_mode() -> Program:
    def body(x, w):
        with torch.inference_mode():
            y = F.linear(x, w).softmax(-1)
            z = F.scaled_dot_product_attention(y[None], y[None], y[None])
            return {"z": z.reshape(-1) * torch.tensor(0.5), "u": torch.einsum("ij,kj->ik", y, x)}

    return Program(body, {"x": normal(3, 4)}, weights={"w": normal(4, 4)})


PROGRAMS: dict[str, Callable[[], Program]] = {
    make.__name__: make
    for make in (
        attention, sdpa, convolution, complex_numbers, indexing, selection, dtypes, in_place,
        aliases, layers, inference_mode,
    )
}  # fmt: skip


def record(recorder: Any, program: Program) -> None:
    """One graph `main` of the whole program."""
    inputs = [recorder.register(n, t, role="input") for n, t in program.inputs.items()]
    states = [recorder.register(n, t, role="state") for n, t in program.states.items()]
    weights = [recorder.register(n, t, role="weight") for n, t in program.weights.items()]
    with recorder.graph("main") as g:
        for name, tensor in program.body(*inputs, *states, *weights).items():
            g.output(name, tensor)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    plain = tensor.detach().resolve_conj().resolve_neg().clone()
    return plain.view(torch.uint16).numpy() if plain.dtype == torch.bfloat16 else plain.numpy()


def run_eagerly(program: Program) -> dict[str, np.ndarray]:
    """Inputs and outputs of every step, as `step/in/name` and `step/out/name`."""
    states = {n: t.clone() for n, t in program.states.items()}
    found = {}
    for step in range(STEPS):
        inputs = step_inputs(program, step)
        for name, tensor in inputs.items():
            found[f"{step}/in/{name}"] = as_numpy(tensor)
        with torch.no_grad():
            outputs = program.body(*inputs.values(), *states.values(), *program.weights.values())
        for name, tensor in (outputs | states).items():
            found[f"{step}/out/{name}"] = as_numpy(tensor)
    return found


def main(folder: str, *names: str) -> None:
    from foundryc.recorder import Recorder

    for name in names:
        with Recorder(target="host", workload="test", settings={"program": name}) as recorder:
            record(recorder, PROGRAMS[name]())
            recorder.save(f"{folder}/{name}.fdy")
        np.savez(f"{folder}/{name}.npz", **run_eagerly(PROGRAMS[name]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
