"""The decoders that are measured: geometry, random weights in one safetensors file, plain torch."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

STEPS = 2
EPSILON = 1e-6


@dataclass(frozen=True)
class Geometry:
    """Sizes of a Qwen3 decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    tied: bool
    context: int = 128
    kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 151936


GEOMETRY = {
    "qwen3-0.6b": Geometry(28, 1024, 3072, 16, tied=True),
    # Two processes' weights and caches must fit one device when replays are compared.
    "qwen3-14b": Geometry(40, 5120, 17408, 40, tied=False, context=32),
    "qwen3-32b": Geometry(64, 5120, 25600, 64, tied=False, context=32),
}


def share(c: Geometry, ranks: int) -> Geometry:
    """Of one of several ranks: heads and the MLP's width are its own."""
    return replace(
        c, heads=c.heads // ranks, kv_heads=c.kv_heads // ranks,
        intermediate=c.intermediate // ranks,
    )  # fmt: skip


def batches(name: str) -> list[int]:
    """Batch sizes: 35 up to 256, or 51 up to 512."""
    small = [1, 2, 4, *range(8, 257, 8)]
    return small if name == "qwen3-0.6b" else [*small, *range(272, 513, 16)]


def shapes(c: Geometry) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters."""
    found: dict[str, tuple[int, ...]] = {"embed": (c.vocab, c.hidden)}
    for layer in range(c.layers):
        sizes = {
            "input_norm": (c.hidden,), "post_norm": (c.hidden,),
            "q_norm": (c.head_dim,), "k_norm": (c.head_dim,),
            "q": (c.heads * c.head_dim, c.hidden), "k": (c.kv_heads * c.head_dim, c.hidden),
            "v": (c.kv_heads * c.head_dim, c.hidden), "o": (c.hidden, c.heads * c.head_dim),
            "gate": (c.intermediate, c.hidden), "up": (c.intermediate, c.hidden),
            "down": (c.hidden, c.intermediate),
        }  # fmt: skip
        found |= {f"layers.{layer}.{name}": size for name, size in sizes.items()}
    found["norm"] = (c.hidden,)
    if not c.tied:
        found["head"] = (c.vocab, c.hidden)
    return found


def random_weights(c: Geometry) -> Any:
    """Random bfloat16 parameters by name, one after another, drawn on the GPU."""
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    for name, shape in shapes(c).items():
        values = torch.empty(shape, device="cuda", dtype=torch.bfloat16)
        yield name, values.normal_(1.0 if "norm" in name else 0.0, 0.02, generator=generator)


def write_weights(c: Geometry, path: Path) -> None:
    """The random weights as a safetensors file."""
    import torch

    header, end = {}, 0
    for name, shape in shapes(c).items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Pinned, or the copies from the device would take most of the time.
    buffer = torch.empty(max(map(prod, shapes(c).values())), dtype=torch.bfloat16, pin_memory=True)
    with open(path, "wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in random_weights(c):
            part = buffer[: values.numel()]
            part.copy_(values.view(-1))
            data = part.view(torch.int16).numpy().data.cast("B")
            while data:
                data = data[file.write(data) :]


def _norm(x: Any, weight: Any) -> Any:
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + EPSILON).rsqrt()).to(x.dtype) * weight


def _turn(x: Any, cosine: Any, sine: Any) -> Any:
    import torch

    low, high = x.chunk(2, -1)
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), -1)


def layer(
    c: Geometry, w: dict[str, Any], step: tuple[Any, ...], x: Any, cache: Any,
    summed: Callable[[Any], Any] = lambda share: share,
) -> Any:  # fmt: skip
    """One layer for a row of each slot; x [B, hidden], cache [2, slots, kv_heads, context, dim].

    Of one of several ranks, `summed` adds up their shares.
    """
    from torch.nn.functional import linear, silu

    cosine, sine, slots, positions, mask = step
    batch, group = x.shape[0], c.heads // c.kv_heads
    normed = _norm(x, w["input_norm"])
    q = _turn(_norm(linear(normed, w["q"]).view(batch, -1, c.head_dim), w["q_norm"]), cosine, sine)
    k = _turn(_norm(linear(normed, w["k"]).view(batch, -1, c.head_dim), w["k_norm"]), cosine, sine)
    v = linear(normed, w["v"]).view(batch, -1, c.head_dim)
    keys, values = cache.unbind(0)
    keys[slots, :, positions], values[slots, :, positions] = k, v
    scores = q.view(batch, c.kv_heads, group, -1) @ keys[:batch].transpose(-1, -2)
    shares = (scores.float() * c.head_dim**-0.5 + mask).softmax(-1).to(x.dtype)
    x = x + summed(linear((shares @ values[:batch]).reshape(batch, -1), w["o"]))
    normed = _norm(x, w["post_norm"])
    return x + summed(linear(silu(linear(normed, w["gate"])) * linear(normed, w["up"]), w["down"]))


def decode(c: Geometry, w: dict[str, Any], plan: Any, cache: Any, run: Callable[..., Any]) -> Any:
    """Logits float32 [B, vocab] of a token of each slot; plan int64 [2, B]: tokens, positions."""
    import torch

    tokens, positions = plan.unbind(0)
    half = torch.arange(c.head_dim // 2, device=plan.device)
    angles = positions[:, None, None] * 1e6 ** (-half.float() / (c.head_dim // 2))
    x = w["embed"].index_select(0, tokens)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    places = torch.arange(c.context, device=plan.device)
    mask = (places > positions[:, None]).float()[:, None, None] * -1e9
    step = (cosine, sine, torch.arange(len(tokens), device=plan.device), positions, mask)
    for index in range(c.layers):
        prefix = f"layers.{index}."
        own = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
        x = run(c, own, step, x, cache[index])
    table = w.get("head", w["embed"])
    return torch.nn.functional.linear(_norm(x, w["norm"]), table).float()


def decode_passes(
    name: str, weights: dict[str, Any], register: Any, compiled: Any, ranks: int = 1
) -> Any:
    """(batch size, function that gives the logits) for every batch size, and the cache.

    One layer is compiled, not the model: all layers and batch sizes share its code.
    """
    import torch

    c = share(GEOMETRY[name], ranks)
    slots = max(batches(name))
    shape = (c.layers, 2, slots, c.kv_heads, c.context, c.head_dim)
    empty = torch.zeros(shape, dtype=torch.bfloat16, device=weights["embed"].device)
    cache = register("cache", empty, role="state")
    run = compiled(layer)
    passes = []
    for batch in batches(name):
        # A capture's proof runs with what inputs hold now: of positions 0 a stride does not show.
        rows = torch.tensor(plan(batch, 1)).view(2, batch)
        rows = register(f"plan.{batch}", rows, role="input")
        passes.append((batch, partial(decode, c, weights, rows, cache, run)))
    return passes, cache


def digest(values: bytes | bytearray) -> str:
    """Of a tensor's bytes."""
    from blake3 import blake3

    return str(blake3(values, max_threads=blake3.AUTO).hexdigest())


def plan(batch: int, step: int) -> array[int]:
    """Tokens and positions of one decode step, int64 [2, batch]: some token of each slot.

    Made and written without numpy, as a process that only wants its first launch would.
    """
    tokens = [(104729 * slot + 7919 * batch + 1299709 * step) % 151936 for slot in range(batch)]
    return array("q", tokens + [step] * batch)
