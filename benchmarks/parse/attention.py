"""Attention and sampling kernels of PARSE against torch's own, the bandwidth, and each other.

Geometry: 40 query heads over 8 (and 64 over 8), head_dim 128, bfloat16. Times are medians over
replays of a CUDA graph, which runs a function once for each of several input sets (microseconds a
call). `--tiles` also measures the tiles that `choose` picks from.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from typer import Option

from benchmarks.parse.served import served
from benchmarks.report import RESULTS, Output, today, write_results
from parse_runtime.kernels.cuda import attend_rows as rows_kernel
from parse_runtime.kernels.cuda import attend_step as step_kernel
from parse_runtime.kernels.sample import sample
from parse_runtime.signature.plan import Plan, causal, verification_plan
from parse_runtime.signature.sizes import BLOCK, blocks_of

KV_HEADS, HEAD_DIM, VOCABULARY, MAX_LEN = 8, 128, 151936, 8192
ROW_TILES = [(128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 3)]
STEP_TILES: list[tuple[int, ...]] = [
    *((span, *tile, programs)
      for span in (128, 256, 512)
      for tile in ((16, 64, 4, 3), (64, 64, 4, 3))
      for programs in (264, 1056)),
    # (64, 64, 4, 3) takes 242 registers a thread, and so two programs a multiprocessor; these let
    # four and three share one.
    *((span, *tile)
      for span in (256, 512) for tile in ((16, 64, 4, 2, 1056), (64, 32, 4, 3, 1056, 168))),
]  # fmt: skip
Call = Callable[[], Any]


def microseconds(calls: list[Call], replays: int = 15) -> float:
    """Median time of one call; `calls` run one after another in one graph."""
    for _ in range(2):
        calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(replays + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return round(statistics.median(times[2:]), 2)


def table(tiles: list[tuple[int, ...]], measure: Callable[[Any], Any]) -> dict[str, Any]:
    """What each tile takes; a tile that a device has no room for is named so."""
    found = {}
    for tile in tiles:
        try:
            found[str(tile)] = measure(tile)
        except triton.runtime.errors.OutOfResources as error:
            found[str(tile)] = str(error)[:100]
    return found


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda")


def bandwidths() -> tuple[float, float]:
    """Bytes a microsecond of a large device-to-device copy (read and written), and of a sum."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    copied = microseconds([lambda: target.copy_(source)])
    return 2 * source.nbytes / copied, source.nbytes / microseconds([source.sum])


def paged(slots: int, rows: int) -> tuple[Tensor, Tensor]:
    """Random keys and values in blocks of slots, and the tables, in no order."""
    each = blocks_of(rows)
    cache = random(2, slots * each, BLOCK, KV_HEADS, HEAD_DIM)
    return cache, torch.randperm(slots * each, device="cuda").int().view(slots, each)


def contiguous(cache: Tensor, tables: Tensor, rows: int) -> Tensor:
    """The same as other kernels read it, [2, slots, kv_heads, rows, head_dim]."""
    held = cache[:, tables.long()].flatten(2, 3)[:, :, :rows]
    return held.transpose(2, 3).contiguous()


def rows_call(
    q: Tensor, cache: tuple[Tensor, Tensor], plan: Plan, keys: int,
    tiles: rows_kernel.Tiles | None = None,
) -> Call:  # fmt: skip
    slot = torch.zeros(1, dtype=torch.int64, device="cuda")
    _, _, row, cut, start = torch.from_numpy(plan).cuda().unbind(0)
    return lambda: rows_kernel.launch(q, *cache, slot, row, cut, start, keys, tiles)


def flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    backend = SDPBackend.FLASH_ATTENTION if mask is None else SDPBackend.EFFICIENT_ATTENTION
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, enable_gqa=mask is None
        )


def prefill(group: int, tiles: bool) -> Iterator[dict[str, Any]]:
    """Causal prefill of whole prompts, against the flash backend of torch."""
    for length in (64, 512, 1024, 2048, 4096, 8192):
        q = random(length, group * KV_HEADS, HEAD_DIM)
        cache = paged(1, length)
        plan = causal([0] * length, 0, length, MAX_LEN)
        calls = 8 if length <= 2048 else 2
        ours = microseconds([rows_call(q, cache, plan, length)] * calls)
        heads = q.transpose(0, 1)[None].contiguous()
        k, v = contiguous(*cache, length)
        theirs = microseconds([lambda q=heads, k=k, v=v: flash(q, k, v)] * calls)
        work = 2 * 2 * group * KV_HEADS * HEAD_DIM * length * (length + 1) / 2
        found: dict[str, Any] = {
            "group": group, "length": length, "us": ours, "sdpa_flash_us": theirs,
            "over_sdpa_flash": round(ours / theirs, 3), "tflops": round(work / ours / 1e6, 1),
        }  # fmt: skip
        if tiles:
            found["tiles"] = table(
                ROW_TILES,
                lambda t, q=q, cache=cache, plan=plan, length=length, calls=calls: microseconds(
                    [rows_call(q, cache, plan, length, rows_kernel.Tiles(*t))] * calls
                ),
            )
        yield found


def verify(group: int, tiles: bool) -> Iterator[dict[str, Any]]:
    """One pass that verifies prefixes, against a plain prefill of as many tokens."""
    suffix = 16
    for prefix, shared, cuts in ((0, 384, 8), (512, 512, 8), (2048, 512, 8), (512, 512, 32)):
        length = shared + cuts * suffix
        total = MAX_LEN + 1 + cuts * suffix
        q = random(length, group * KV_HEADS, HEAD_DIM)
        cache = paged(1, total)
        where = [prefix + (i + 1) * shared // cuts for i in range(cuts)]
        plan, _ = verification_plan(
            [0] * shared, prefix, [0] * suffix, where, length, MAX_LEN, MAX_LEN + 1
        )
        plain = causal([0] * length, prefix, length, MAX_LEN)
        _, _, row, cut, start = torch.from_numpy(plan).cuda()[..., None].unbind(0)
        key = torch.arange(total, device="cuda")
        mask = ((key < cut) | ((key >= start) & (key <= row)))[None, None]
        # The mask's own last dimension must be aligned for the backend that takes one.
        mask = F.pad(mask, (0, -total % 8))[..., :total]
        heads = q.transpose(0, 1)[None].contiguous()
        k, v = contiguous(*cache, total).repeat_interleave(group, 2)
        one = microseconds([rows_call(q, cache, plan, total)] * 8)
        other = microseconds([rows_call(q, cache, plain, total)] * 8)
        found: dict[str, Any] = {
            "group": group, "prefix": prefix, "trunk": shared, "cuts": cuts, "suffix": suffix,
            "us": one, "plain_prefill_us": other, "over_plain_prefill": round(one / other, 3),
        }  # fmt: skip
        try:
            dense = microseconds([lambda q=heads, k=k, v=v, m=mask: flash(q, k, v, m)] * 2)
            found["sdpa_dense_mask_us"] = dense
        except RuntimeError as error:
            found["sdpa_dense_mask_us"] = str(error)[:200]
        if tiles:
            found["tiles"] = table(
                ROW_TILES,
                lambda t, q=q, cache=cache, plans=(plan, plain), total=total: [
                    microseconds([rows_call(q, cache, p, total, rows_kernel.Tiles(*t))] * 8)
                    for p in plans
                ],
            )
        yield found


def step(group: int, bandwidth: float, tiles: bool) -> Iterator[dict[str, Any]]:
    """Decoding over full contexts; the floor reads each key and value once, as fast as a copy."""
    shapes = [(1, 512, 1), (1, 2048, 1), (1, 8192, 1), (1, 32768, 1), (8, 2048, 1), (32, 2048, 1),
              (32, 8192, 1), (1, 2048, 8), (8, 2048, 8), (8, 8192, 8)]  # fmt: skip
    for batch, context, length in shapes:
        bytes_ = 2 * KV_HEADS * batch * context * HEAD_DIM * 2
        sets = max(2, min(16, 2 * 10**8 // bytes_))
        caches = [paged(batch, context + length) for _ in range(sets)]
        q = random(batch * length, group * KV_HEADS, HEAD_DIM)
        slots = torch.arange(batch, device="cuda")
        start = torch.full((batch * length,), context, device="cuda")
        bits = (2 << torch.arange(length, device="cuda")).repeat(batch) - 1

        def calls(
            t: step_kernel.Tiles | None,
            q: Tensor = q, caches: list[tuple[Tensor, Tensor]] = caches, slots: Tensor = slots,
            start: Tensor = start, bits: Tensor = bits, keys: int = context + length,
            length: int = length,
        ) -> list[Call]:  # fmt: skip
            return [
                lambda c=c: step_kernel.launch(q, *c, slots, start, start, bits, keys, length, t)
                for c in caches
            ]

        ours, floor = microseconds(calls(None)), bytes_ / bandwidth
        found: dict[str, Any] = {
            "group": group, "batch": batch, "context": context, "rows": length, "us": ours,
            "floor_us": round(floor, 2), "over_floor": round(ours / floor, 3), "sets": sets,
        }  # fmt: skip
        if length == 1:
            heads = q.view(batch, group * KV_HEADS, 1, HEAD_DIM)
            peers = [tuple(contiguous(*c, context)) for c in caches]
            found["sdpa_us"] = microseconds(
                [
                    lambda q=heads, k=k, v=v: F.scaled_dot_product_attention(
                        q, k, v, enable_gqa=True
                    )
                    for k, v in peers
                ]
            )
        if tiles:
            found["tiles"] = table(
                STEP_TILES, lambda t, calls=calls: microseconds(calls(step_kernel.Tiles(*t)), 7)
            )
        yield found


def sampling() -> Iterator[dict[str, Any]]:
    """Rows of a large vocabulary: greedy, with a temperature, with a nucleus."""
    for count in (1, 8, 32):
        sets = [torch.randn(count, VOCABULARY, device="cuda") * 3 for _ in range(8)]
        for name, heat, mass in (
            ("greedy", 0.0, 1.0), ("temperature", 0.8, 1.0), ("top_p", 0.8, 0.9),
        ):  # fmt: skip
            heats, masses = (torch.full((count,), x, device="cuda") for x in (heat, mass))
            seeds = torch.arange(count, device="cuda")
            calls = [
                lambda x=x, h=heats, m=masses, s=seeds, i=i: sample(x, h, m, s, s + i)
                for i, x in enumerate(sets)
            ]
            yield {"rows": count, "kind": name, "us": microseconds(calls)}


def run(
    tiles: Annotated[bool, Option(help="Also the tiles that `choose` picks from.")] = False,
    output: Output = RESULTS / "parse_kernels.json",
) -> None:
    """Measure attention and sampling kernels, against torch's own and the bandwidth."""
    torch.manual_seed(0)
    bandwidth, reading = bandwidths()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "date": today(),
        "torch": torch.__version__, "copy_gb_per_s": round(bandwidth / 1e3, 1),
        "read_gb_per_s": round(reading / 1e3, 1),
    }  # fmt: skip
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "step": lambda: step(5, bandwidth, tiles),
        "prefill": lambda: prefill(5, tiles),
        "verify": lambda: verify(5, tiles),
        "sample": sampling,
        "prefill_group_8": lambda: prefill(8, False),
        "step_group_8": lambda: step(8, bandwidth, False),
        "served": lambda: served(5, bandwidth, tiles, paged, microseconds),
        "served_group_2": lambda: served(2, bandwidth, tiles, paged, microseconds),
    }
    for name, part in parts.items():
        report[name] = []
        for found in part():
            report[name].append(found)
            print(name, {k: v for k, v in found.items() if k != "tiles"}, flush=True)
            write_results(output, report)
        torch.cuda.empty_cache()
