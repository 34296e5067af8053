"""Compiles the Triton kernels for a Hopper GPU without one; prints, as JSON, what the code shows.

By kernel: its binaries for passes of 1 to 16 rows, and, of the PTX of each, what comes before
`griddepcontrol.wait`: instructions that touch memory, branches, and further waits anywhere; of its
sums and products the layouts.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import torch
import triton
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from foundryc.ranks import Ranks
from parse_runtime.kernels.activations import fp8_activations
from parse_runtime.kernels.attend_rows import attend_rows
from parse_runtime.kernels.attend_step import attend_step, attend_step_parts
from parse_runtime.kernels.cuda.gather import launch_columns, launch_summed
from parse_runtime.kernels.cuda.reduce import all_reduce
from parse_runtime.kernels.cuda.shares import send_product
from parse_runtime.kernels.drafts import accept, followed, move, rooted
from parse_runtime.kernels.evidence import by_cut, least_sure
from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.gather import chained, elements_at, joined, put_rows, rows_at, widened
from parse_runtime.kernels.grow import grown
from parse_runtime.kernels.likelihood import keep_likelihood, token_likelihood
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.loose import stay
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.normed import normed_parts, normed_swiglu
from parse_runtime.kernels.plan import following, places_of, windowed
from parse_runtime.kernels.quantized import Quantized, plain
from parse_runtime.kernels.ranks import first_of, own_rows
from parse_runtime.kernels.rotate import Rotation, rotate_store
from parse_runtime.kernels.rows import STREAMED_ROWS
from parse_runtime.kernels.sample import sample, sample_and_step
from parse_runtime.kernels.streamed import of_ranks
from parse_runtime.kernels.swiglu import linear_swiglu, swiglu
from parse_runtime.kernels.verdicts import judged, unrounded
from parse_runtime.signature.tree import DraftTree

PASSES = ((1, 1), (2, 1), (1, 5), (4, 4))
"""Slots and rows of each."""
HIDDEN, WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, KEYS = 256, 512, 4, 1, 64, 272, 257
MANY_KEYS, WIDE = 2049, 1032
"""Keys that take more than a few spans, and a row that is not narrow."""
WAIT, MEMORY = "griddepcontrol.wait", ("ld.global", "st.global", "cp.async", "atom.", "red.global")


class Hopper:
    """The driver of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class AsCuda(TorchFunctionMode):
    """CPU tensors say that they are on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__self__", None) is torch.Tensor.is_cuda:
            return True
        return func(*args, **(kwargs or {}))


def run(slots: int, length: int, dtype: torch.dtype) -> None:
    """A layer, its attention in both kinds of pass with and without a window, experts, sampling."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype)

    count = slots * length
    numbers, heat = torch.zeros(count, dtype=torch.int64), torch.zeros(count)
    cache, norm = normal(60, 3, 2, 16, KV_HEADS, HEAD_DIM)[:, 1].transpose(0, 1), normal(HIDDEN)
    tables = torch.zeros(4, 17, dtype=torch.int32)
    x, total = add_rms_norm(normal(count, HIDDEN), None, norm, 1e-6)
    parts = linear_parts(x, normal((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN))
    head_norms = normal(HEAD_DIM), normal(HEAD_DIM)
    frequencies = torch.zeros(HEAD_DIM // 2)
    where = cache, tables, numbers[:slots]
    q = rotate_store(parts, numbers, frequencies, *where, numbers, head_norms, 1e-6)
    many = torch.zeros(STREAMED_ROWS + 1, dtype=torch.int64)
    wide = normal(many.shape[0], parts.shape[2])
    rotate_store(wide, many, frequencies, cache, tables, many[:1], many, head_norms, 1e-6)
    attend_rows(q, *where, numbers, numbers, numbers, KEYS)
    x = attend_step(q, *where, numbers, numbers, numbers, KEYS, length)
    window = {"lows": numbers, "scale": 0.1, "cap": 50.0}
    attend_rows(q, *where, numbers, numbers, numbers, KEYS, **window)
    attend_step(q, *where, numbers, numbers, numbers, KEYS, length, **window)
    x, total = add_rms_norm(linear_parts(x, normal(HIDDEN, x.shape[1])), total, norm, 1e-6)
    add_rms_norm(normal(count, WIDE), None, normal(WIDE), 1e-6)
    long = torch.zeros(4, 129, dtype=torch.int32)
    attend_step(q, cache, long, numbers[:slots], numbers, numbers, numbers, MANY_KEYS, length)
    linear_swiglu(x, normal(2 * WIDTH, HIDDEN), True)
    x = linear_swiglu(x, normal(2 * WIDTH, HIDDEN))
    x = linear(x, normal(HIDDEN, WIDTH))
    swiglu(normal(count, 2 * WIDTH), True)
    swiglu(normal(count, 2 * WIDTH))
    experts(x, normal(8, HIDDEN), normal(8, 128, HIDDEN), normal(8, HIDDEN, 64), 2, True)
    first = torch.zeros(1, dtype=torch.int64)
    experts(x, normal(8, HIDDEN), normal(4, 128, HIDDEN), normal(4, HIDDEN, 64), 2, True, first)
    wide = linear(x, quantized(WIDTH, HIDDEN))
    linear_parts(wide, quantized(HIDDEN, WIDTH))
    linear_swiglu(x, quantized(2 * WIDTH, HIDDEN))
    plain(quantized(WIDTH, HIDDEN), dtype)
    gate_up, down = quantized(8, 256, HIDDEN), quantized(8, HIDDEN, 128)
    experts(x, normal(8, HIDDEN), gate_up, down, 2, True)
    with fp8_activations(True):
        wide = linear(x, quantized(WIDTH, HIDDEN))
        linear_parts(wide, quantized(HIDDEN, WIDTH), normal(HIDDEN))
        normed_parts(total, x, norm, 1e-6, 0.0, None, quantized(WIDTH, HIDDEN))
        normed_swiglu(x, total, norm, 1e-6, 0.0, None, quantized(2 * WIDTH, HIDDEN))
        linear_swiglu(x, quantized(2 * WIDTH, HIDDEN))
        experts(x, normal(8, HIDDEN), gate_up, down, 2, True)
    words = torch.zeros(4, dtype=torch.int32)
    ranks = Ranks(2, words, torch.zeros(2 * 4 * 65536, dtype=torch.uint8), 65536)
    with of_ranks(True):
        gated = linear_swiglu(total, normal(2 * WIDTH, HIDDEN))
        add_rms_norm(linear_parts(gated, normal(HIDDEN, WIDTH)), total, norm, 1e-6, 0.0, ranks)
        sent = send_product(gated, normal(HIDDEN, WIDTH), ranks)
        assert sent is not None
        add_rms_norm(sent, total, norm, 1e-6)
    with fp8_activations(True):
        normed_parts(total, x, norm, 1e-6, 0.0, ranks, quantized(WIDTH, HIDDEN))
    all_reduce(total, ranks)
    scores = linear(x, normal(VOCABULARY, HIDDEN)).float()
    said = token_likelihood(scores.to(dtype), numbers, -100.0)
    _, place = least_sure(heat[None], numbers[None], 2, count)
    each = numbers[None]
    rest = each, heat[None], each > 0, each, torch.zeros(1, 3, 7), 0.3
    own, entropy, choices = (one[None] for one in said)
    evidence = by_cut(torch.zeros(1, 2, 2), (own, entropy, choices), place, *rest)
    one = torch.zeros(1, dtype=torch.int64)
    for score in (None, torch.zeros(1, evidence.shape[2] + 1)):
        judged(evidence if score is not None else torch.zeros(1, 2, 2), score, one, heat[:1], one)
    unrounded(x, normal(2, HIDDEN))
    keep_likelihood(torch.zeros(100), numbers, scores, numbers, -100.0)
    sample(scores, heat, heat, numbers, numbers)
    sample(scores, heat[:1], heat[:1], numbers[:1], numbers)
    plan = torch.zeros(5, count, dtype=torch.int64)
    sample_and_step(scores, heat, heat, numbers, plan, KEYS)


def run_rows(slots: int, length: int, dtype: torch.dtype) -> None:
    """What moves rows, and numbers of rows."""
    table, index = torch.zeros(40, HIDDEN, dtype=dtype), torch.zeros(slots * length).long()
    rows_at(table, index)
    rows_at(table, index, 2)
    put_rows(table, index, joined((table[: len(index)],)))
    joined((table,) * 3, index)
    chained(table[:3], table[3:7])
    chained(index[:slots], index, 4)
    elements_at(index, index)
    ranks = Ranks(2, torch.zeros(4, dtype=torch.int32), torch.zeros(512, dtype=torch.uint8), 128)
    own_rows(table, index, ranks)
    places_of(index, index[:slots], 7)
    windowed(index, index, index, 9)
    widened(table.bfloat16())
    parts = torch.zeros(2, len(index), 16, dtype=dtype)
    launch_columns(parts, 30)
    launch_summed(parts)
    first_of(ranks, 9)
    following(index, index, 9)
    following(index, index, 9, (index[:slots], index[:slots], index[:slots]))


def run_drafts(batch: int, tree: DraftTree, dtype: torch.dtype) -> None:
    """What an extend pass does with its trees."""
    both = torch.zeros(2, batch, dtype=torch.int64)
    token, position = both.unbind(0)
    depths, kept = torch.tensor(tree.depths), torch.zeros(9, 3, tree.rows, dtype=torch.int64)
    found = rooted(kept, depths, token, position, token, 90)
    choices = found.tokens.view(batch, -1)
    stay(found.tokens.view(batch, -1), choices, torch.zeros(choices.numel(), 99), 1, 0.3)
    count, path, after = accept(found.drafts, depths, choices, position, 90, tree.depth)
    ended = followed(position, count, path, after, tree.rows, 90)
    cache = torch.zeros(20, 2, 2, 16, KV_HEADS, HEAD_DIM, dtype=dtype)
    move(cache, torch.zeros(4, 7, dtype=torch.int32), token, ended.come, ended.to)
    offsets = torch.zeros(9000, dtype=torch.int64)
    for scores, rows in ((None, batch), (torch.zeros(batch, tree.width), batch * tree.width)):
        logits = torch.zeros(rows, 9000, dtype=dtype)
        rest = tree.width, offsets, token, position, 90
        grown(logits, scores, found.drafts, 0 if scores is None else 1, *rest)


def run_fused(dtype: torch.dtype) -> None:
    """What one row runs in place of kernels of `run`."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype)

    norm, number = normal(HIDDEN), torch.zeros(1, dtype=torch.int64)
    qkv_weight, o = normal((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN), normal(HIDDEN, HIDDEN)
    qkv, total = normed_parts(normal(1, HIDDEN), None, norm, 1e-6, 0.0, None, qkv_weight)
    head_norms = normal(HEAD_DIM), normal(HEAD_DIM)
    rotation = Rotation(number, torch.zeros(HEAD_DIM // 2), number, head_norms, 1e-6, 0.0)
    cache = normal(60, 3, 2, 16, KV_HEADS, HEAD_DIM)[:, 1].transpose(0, 1)
    tables = torch.zeros(4, 17, dtype=torch.int32)
    numbers = number, number, number, number, KEYS, 1
    added = attend_step_parts(qkv, rotation, cache, tables, *numbers, o)
    normed_swiglu(added, total, norm, 1e-6, 0.0, None, normal(2 * WIDTH, HIDDEN))


def run_many_rows() -> None:
    """Products of more rows than are read as words."""
    x = torch.zeros(32, HIDDEN, dtype=torch.bfloat16)
    linear_parts(x, quantized(WIDTH, HIDDEN))
    linear_swiglu(x, quantized(2 * WIDTH, HIDDEN))


def quantized(*shape: int) -> Quantized:
    *outer, n, k = shape
    values = torch.zeros(shape, dtype=torch.float8_e4m3fn)
    return Quantized(values, torch.zeros(*outer, -(-n // 128), -(-k // 128)))


def before_wait(ptx: str) -> dict[str, int]:
    """Of a kernel: memory instructions and branches before its wait, and how many waits it has."""
    head, *rest = ptx[ptx.index(".entry") :].split(WAIT)
    found = [line.split() for line in head.splitlines()]
    words = [word for line in found for word in line]
    return {
        "loads": sum(word.startswith("ld.global") for word in words),
        "memory": sum(word.startswith(MEMORY) for word in words),
        "branches": sum(word.startswith("bra") for word in words),
        "waits": len(rest),
        "releases": head.count("griddepcontrol.launch_dependents"),
    }


def approximate_angles(ptx: str) -> int:
    """Instructions whose error grows with the angle."""
    return len(re.findall(r"\b(?:sin|cos)\.approx", ptx))


def sums(ttgir: str) -> list[str]:
    """Shapes and layouts of what is summed: these decide the order."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    found = re.findall(r"\}\) : \((tensor<[0-9x]+xf32), (#\w+)>\)", ttgir)
    return sorted({f"{shape} {layouts[layout]}" for shape, layout in found})


def products(ttgir: str) -> list[str]:
    """Layouts of what is multiplied: these decide which numbers an instruction adds up."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    found = re.findall(r"opIdx = (\d), parent = (#\w+)(, kWidth = \d+)?", ttgir)
    return sorted({f"{side} {layouts[mma]}{width}" for side, mma, width in found})


def sent(ttgir: str) -> list[str]:
    """Layouts of words that are stored into slabs: side by side, or each far from the next."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    found = re.findall(r"st\.relaxed.*-> tensor<[0-9x]+xi32, (#\w+)>", ttgir)
    return sorted({layouts[layout] for layout in found})


def chains(ttgir: str) -> dict[str, int]:
    """Products of tiles, and those of them that begin at zero and are added to a sum."""
    dots = re.findall(r"= (?:tt\.dot|ttng\.warp_group_dot) %\S+ %\S+ (%\w+)", ttgir)
    zeros = set(re.findall(r"(%\w+) = arith\.constant dense<0\.0+e\+00>", ttgir))
    return {
        "products": len(dots),
        "from_zero": sum(dot in zeros for dot in dots),
        "added": ttgir.count("= math.fma "),
    }


def quads(ptx: str) -> list[str]:
    """Instructions that move four words of 32 bits."""
    return sorted(set(re.findall(r"\b(?:ld|st)\.\S*global\.v4\.b32", ptx)))


def copied(ptx: str) -> list[int]:
    """Bytes that a thread copies into shared memory at once."""
    return sorted({int(size, 0) for size in re.findall(r"cp\.async\.c\w.* (0x\w+|\d+), ", ptx)})


def multiplied(ptx: str) -> list[str]:
    """Types of what tensor cores multiply."""
    return sorted(set(re.findall(r"mma\S*\.m\d+n\d+k\d+\S*?\.f32\.(\w+\.\w+)", ptx)))


def main() -> None:
    triton.runtime.driver.set_active(Hopper())
    compiled: dict[str, dict[str, Any]] = defaultdict(dict)
    of_pass: dict[str, list[str]] = {}
    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        compiled[self.fn.__name__][kernel.hash] = kernel
        here.append(f"{self.fn.__name__} {kernel.hash}")
        return kernel

    JITFunction.run = compile_only
    with AsCuda():
        for dtype in (torch.bfloat16, torch.float32):
            for slots, length in PASSES:
                here: list[str] = []
                run(slots, length, dtype)
                run_rows(slots, length, dtype)
                for tree in (DraftTree(3), DraftTree(2, 3)):
                    run_drafts(slots, tree, dtype)
                of_pass[f"{dtype} {slots}x{length}"] = here
            here = []
            run_fused(dtype)
        run_many_rows()
    report = {
        name: {
            "programmatic": all(k.metadata.launch_pdl for k in kernels.values()),
            "approximate": [approximate_angles(k.asm["ptx"]) for k in kernels.values()],
            "code": [before_wait(k.asm["ptx"]) for k in kernels.values()],
            "sums": [sums(k.asm["ttgir"]) for k in kernels.values()],
            "products": [products(k.asm["ttgir"]) for k in kernels.values()],
            "sent": [sent(k.asm["ttgir"]) for k in kernels.values()],
            "chains": [chains(k.asm["ttgir"]) for k in kernels.values()],
            "copied": [copied(k.asm["ptx"]) for k in kernels.values()],
            "converted": ["cvt.rn.f16x2.e4m3x2" in k.asm["ptx"] for k in kernels.values()],
            "quads": [quads(k.asm["ptx"]) for k in kernels.values()],
            "multiplied": [multiplied(k.asm["ptx"]) for k in kernels.values()],
        }
        for name, kernels in compiled.items()
    }
    print(json.dumps({"kernels": report, "of_pass": of_pass}))


if __name__ == "__main__":
    main()
