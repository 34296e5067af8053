"""Random attention problems, their float64 answer, and the passes that they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parse_runtime.kernels.attend_rows import attend_rows
from parse_runtime.kernels.attend_step import attend_step
from parse_runtime.signature.sizes import BLOCK, blocks_of


@dataclass(frozen=True)
class Case:
    """Queries of `length` rows of each slot in `slots`, over a cache of random keys and values."""

    q: Tensor
    cache: Tensor
    """[2, blocks, BLOCK, kv_heads, head_dim], as `tables` say."""
    tables: Tensor
    slots: Tensor
    rows: Tensor
    cuts: Tensor
    starts: Tensor
    ancestors: Tensor
    keys: int
    lows: Tensor | None = None
    scale: float | None = None
    cap: float = 0.0

    @property
    def length(self) -> int:
        return self.q.shape[0] // self.slots.shape[0]

    def of_slot(self, slot: int) -> Tensor:
        """A copy of the keys and values of a slot's rows, [2, kv_heads, rows, head_dim]."""
        return self.cache[:, self.tables[slot].long()].flatten(1, 2).transpose(1, 2)

    def to(self, device: str) -> Case:
        fields = vars(self)
        return Case(**{n: f.to(device) if isinstance(f, Tensor) else f for n, f in fields.items()})


def random_case(
    seed: int, *, length: int, batch: int = 1, group: int = 2, kv_heads: int = 2,
    head_dim: int = 16, keys: int = 40, slots: int = 3, dtype: torch.dtype = torch.float32,
    windowed: bool = False,
) -> Case:  # fmt: skip
    """Rows with random cuts (0 among them) and random own spans, or spans of no key.

    Slots' blocks lie in random order among others.

    Where windowed, rows see no key below a random one (which may lie beyond the cut), by scores of
    another scale and with a cap.
    """
    g = torch.Generator().manual_seed(seed)
    count = batch * length

    def below(n: int) -> Tensor:
        return torch.randint(0, n, (count,), generator=g)

    starts, each = below(keys), blocks_of(keys + 9)
    blocks = torch.randperm(slots * each + 2, generator=g, dtype=torch.int32)
    shape = (2, len(blocks), BLOCK, kv_heads, head_dim)
    return Case(
        q=torch.randn(count, group * kv_heads, head_dim, generator=g).to(dtype),
        cache=torch.randn(shape, generator=g).to(dtype),
        tables=blocks[: slots * each].view(slots, each),
        slots=torch.randperm(slots, generator=g)[:batch],
        rows=(starts + below(keys) - keys // 4).clamp(max=keys - 1),
        cuts=(below(keys + 1 + keys // 4) - keys // 4).clamp(min=0),
        starts=starts,
        ancestors=torch.randint(-(2**62), 2**62, (count,), generator=g) * 2 + below(2),
        keys=keys,
        lows=below(keys) if windowed else None,
        scale=0.3 if windowed else None,
        cap=2.0 if windowed else 0.0,
    )


def far_apart(case: Case) -> Case:
    """The same keys and values in blocks so far apart that an int32 does not count to the last.

    Of the memory between them nothing is touched.
    """
    _, blocks, _, kv_heads, head_dim = case.cache.shape
    row = kv_heads * head_dim
    apart = ((1 << 31) // (blocks - 1) // 16 + 1) * 16
    size = (blocks - 1) * apart + 2 * BLOCK * row
    memory = torch.empty(size, dtype=case.cache.dtype, device=case.cache.device)
    cache = memory.as_strided(case.cache.shape, (BLOCK * row, apart, row, head_dim, 1))
    cache.copy_(case.cache)
    assert (case.tables == blocks - 1).any()
    return replace(case, cache=cache)


def rows(case: Case) -> Tensor:
    """What `attend_rows` gives."""
    return attend_rows(
        case.q, case.cache, case.tables, case.slots, case.rows, case.cuts, case.starts,
        case.keys, lows=case.lows, scale=case.scale, cap=case.cap,
    )  # fmt: skip


def step(case: Case) -> Tensor:
    """What `attend_step` gives."""
    return attend_step(
        case.q, case.cache, case.tables, case.slots, case.cuts, case.starts, case.ancestors,
        case.keys, case.length, lows=case.lows, scale=case.scale, cap=case.cap,
    )  # fmt: skip


def rows_visible(case: Case) -> Tensor:
    """Bool [T, keys], key by key, as `attend_rows` documents it."""
    key = torch.arange(case.keys, device=case.q.device)
    mine = [(s <= key) & (key <= r) for s, r in zip(case.starts, case.rows, strict=True)]
    lows = torch.zeros_like(case.cuts) if case.lows is None else case.lows
    below = [(low <= key) & (key < c) for low, c in zip(lows, case.cuts, strict=True)]
    return torch.stack([b | m for b, m in zip(below, mine, strict=True)])


def step_visible(case: Case) -> Tensor:
    """Bool [B * L, keys], bit by bit, as `attend_step` documents it."""
    seen = torch.zeros(case.q.shape[0], case.keys, dtype=torch.bool)
    for i, row in enumerate(seen):
        row[0 if case.lows is None else int(case.lows[i]) : int(case.cuts[i])] = True
        for bit in range(64):
            key = int(case.starts[i]) + bit
            if int(case.ancestors[i]) >> bit & 1 and key < case.keys:
                row[key] = True
    return seen.to(case.q.device)


def exact(case: Case, visible: Tensor) -> Tensor:
    """Float64 [B * L, H * D]: softmax over what each row sees; zero where it sees nothing."""
    count, heads, head_dim = case.q.shape
    group = heads // case.cache.shape[3]
    found = []
    for slot, q, seen in zip(
        case.slots, case.q.split(case.length), visible.split(case.length), strict=True
    ):
        cache = case.of_slot(int(slot))[:, :, : case.keys].double()
        k, v = cache.repeat_interleave(group, 1)
        scores = torch.einsum("lhd,hkd->lhk", q.double(), k) * (case.scale or head_dim**-0.5)
        if case.cap:
            scores = case.cap * (scores / case.cap).tanh()
        weights = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1)
        weights = weights.masked_fill(~seen.any(-1)[:, None, None], 0.0)
        found.append(torch.einsum("lhk,hkd->lhd", weights, v))
    return torch.cat(found).reshape(count, heads * head_dim)
