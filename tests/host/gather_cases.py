"""Kernels of gathered rows, on a GPU or interpreted, beside torch on the CPU: wrong values."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda import gather as cuda
from parse_runtime.kernels.cuda import plan as cuda_plan
from parse_runtime.kernels.gather import chained, elements_at, joined, put_rows, rows_at, widened
from parse_runtime.kernels.plan import following, places_of, windowed
from parse_runtime.kernels.ranks import first_of, own_rows

TYPES = torch.float32, torch.bfloat16, torch.int64, torch.bool
SHAPES = (), (7,), (3, 5), (1500,)


def values(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(0, 200, shape).to(dtype)


def there(x: Any, device: str) -> Any:
    """Tensors, and those in tuples and lists, on a device."""
    if isinstance(x, torch.Tensor):
        return x.to(device)
    return type(x)(there(one, device) for one in x) if isinstance(x, (tuple, list)) else x


def unlike(ours: torch.Tensor, theirs: torch.Tensor) -> int:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    return int((ours.cpu() != theirs).sum())


class Beside:
    """Counts of wrong values, by name."""

    def __init__(self, device: str) -> None:
        self.device, self.found = device, dict[str, int]()

    def note(
        self, name: str, kernel: Callable[..., Any], reference: Callable[..., Any], given: Any
    ) -> None:
        """Of tensors that both give."""
        ours, theirs = kernel(*there(given, self.device)), reference(*given)
        if isinstance(theirs, torch.Tensor):
            ours, theirs = (ours,), (theirs,)
        self.found[name] = sum(map(unlike, ours, theirs))


def moved(beside: Beside) -> None:
    """Rows of all types, of one element and of more than a program moves."""
    for dtype, shape in product(TYPES, SHAPES):
        name, table = f"{dtype} {shape}", values(9, *shape, dtype=dtype)
        for first in (0, 2):
            given = table, torch.tensor([6, 0, 3, 3]), first
            beside.note(f"rows {first} {name}", cuda.launch_rows_at, rows_at, given)
        for repeat in (1, 3) if shape == () else (1,):
            both = table, table[4:6].clone(), repeat
            beside.note(f"chained {repeat} {name}", cuda.launch_chained, chained, both)
        rows = values(3, *shape, dtype=dtype)
        rows[2] = rows[0]  # of two rows to one place either may stay
        ours = there(table.clone(), beside.device)
        where = torch.tensor([2, 8, 2])
        cuda.launch_put_rows(ours, *there((where, rows), beside.device))
        put_rows(table, where, rows)
        beside.found[f"put {name}"] = unlike(ours, table)


def columns(beside: Beside) -> None:
    """Parts side by side, and elements by an index that leading dimensions share or not."""
    for dtype, width in product(TYPES, (1, 7, 1500)):
        parts = [values(6, width, dtype=dtype) for _ in range(3)]
        for count, index in product((1, 2, 3), (None, torch.tensor([5, 0]))):
            name = f"joined {count} {index is None} {dtype} {width}"
            beside.note(name, cuda.launch_joined, joined, (parts[:count], index))
        x = values(4, 3, 40, dtype=dtype)
        for each, leading in ((x, ()), (x, (1,)), (x, (3,)), (x, (4, 3)), (x[0, 0], ())):
            given = each, torch.randint(0, 40, (*leading, width))
            name = f"elements {each.dim()} {leading} {dtype} {width}"
            beside.note(name, cuda.launch_elements_at, elements_at, given)


def shared(beside: Beside) -> None:
    """Rows of a table that two ranks have a half of each, columns of three, other numbers."""
    table, index = torch.randn(5, 30), torch.tensor([0, 9, 4, 5])
    for rank in (0, 1):
        words = torch.tensor([rank, 0, 0, 0], dtype=torch.int32)
        slabs = torch.zeros(2 * 512, dtype=torch.uint8)
        one, other = Ranks(2, words.to(beside.device), slabs, 256), Ranks(2, words, slabs, 256)
        ours = cuda.launch_rows_at(*there((table, index), beside.device), ranks=one)
        beside.found[f"rank {rank}"] = unlike(ours, own_rows(table, index, other))
        ours = cuda.launch_first(one.words, 40_000)
        beside.found[f"first {rank}"] = unlike(ours, first_of(other, 40_000))
    parts = torch.randint(-99, 99, (3, 5, 40)).float()
    beside.note("summed", cuda.launch_summed, lambda x: x.sum(0), (parts,))
    for width in (120, 101):
        side = torch.cat(list(parts), -1)[:, :width]
        ours = cuda.launch_columns(parts.to(beside.device), width)
        beside.found[f"columns {width}"] = unlike(ours, side)
    # As ranks exchange an odd number of words' halves.
    padded = torch.randint(-99, 99, (2, 16)).bfloat16()[:, :15].view(2, 3, 5)
    ours = cuda.launch_columns(padded.to(beside.device), 10)
    beside.found["columns with gaps"] = unlike(ours, torch.cat(list(padded), -1))
    beside.note("widened", cuda.launch_widened, widened, (torch.randn(5, 1300).bfloat16(),))


def numbers(beside: Beside) -> None:
    for count in (1, 128, 300):
        rows, positions, starts = torch.randint(0, 90, (3, count)).unbind(0)
        for batch in {1, count, 4 if count % 4 == 0 else 1}:
            given = rows, torch.randint(0, 9, (batch,)), 91
            beside.note(f"places {count} {batch}", cuda_plan.launch_places, places_of, given)
        seen = positions, rows, starts, 40
        beside.note(f"windowed {count}", cuda_plan.launch_windowed, windowed, seen)
        ends = torch.tensor([count - 1, count // 2]), torch.tensor([-1, 7]), torch.tensor([5, 6])
        for some in (None, ends if count > 1 else tuple(end[:1] for end in ends)):
            known = positions, rows, 60, some
            name = f"following {count} {some is None}"
            beside.note(name, cuda_plan.launch_following, following, known)


def wrong(device: str) -> dict[str, int]:
    """By kernel and case."""
    torch.manual_seed(0)
    beside = Beside(device)
    for check in (moved, columns, shared, numbers):
        check(beside)
    return beside.found
