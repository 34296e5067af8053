"""Kernels of draft trees, on a GPU or interpreted, beside torch on the CPU: wrong values."""

from __future__ import annotations

import math
import sys
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gather_cases import Beside, there, unlike

from parse_runtime.kernels import drafts as host
from parse_runtime.kernels import grow, loose
from parse_runtime.kernels.cuda import drafts as cuda
from parse_runtime.kernels.cuda import grow as cuda_grow
from parse_runtime.kernels.cuda import likelihood as cuda_likelihood
from parse_runtime.kernels.cuda import loose as cuda_loose
from parse_runtime.signature.tree import DraftTree

TREES = DraftTree(1), DraftTree(3), DraftTree(2, 2), DraftTree(3, 4), DraftTree(9, 7)
MAX_LEN, SLOTS = 90, 4


def random_trees(tree: DraftTree, count: int) -> torch.Tensor:
    """Int64 [count, 3, rows], whose tokens are few."""
    made = []
    for _ in range(count):
        parents, ancestors = [0], [1]
        for row, depth in enumerate(tree.depths[1:], start=1):
            first = 0 if depth == 1 else 1 + (depth - 2) * tree.width
            last = 0 if depth == 1 else first + tree.width - 1
            parents.append(int(torch.randint(first, last + 1, ())))
            own = 1 << row
            ancestors.append(ancestors[parents[-1]] | (own - (1 << 64) if row == 63 else own))
        made.append([torch.randint(0, 2, (tree.rows,)).tolist(), parents, ancestors])
    return torch.tensor(made)


def accepted(beside: Beside) -> None:
    """Roots put in, paths accepted and followed, and rows moved, with padding and without room."""
    for tree, seed in product(TREES, range(3)):
        torch.manual_seed(seed)
        name = f"{tree.depth}x{tree.width} {seed}"
        position = torch.tensor([5, MAX_LEN, MAX_LEN - 2, 40, MAX_LEN])
        slots = torch.tensor([2, 0, 1, 3, 0])
        token, depths = torch.randint(0, 2, (5,)), torch.tensor(tree.depths)
        trees, mixed = random_trees(tree, SLOTS + 1), int(seed > 0)
        trees[:, 0] *= mixed  # with seed 0 every token is right
        given = trees, depths, token * mixed, position, slots, MAX_LEN
        beside.note(f"rooted {name}", cuda.launch_rooted, host.rooted, given)
        choices = torch.randint(0, 2, (5, tree.rows)) * mixed
        judged = host.rooted(*given).drafts, depths, choices, position, MAX_LEN, tree.depth
        beside.note(f"accept {name}", cuda.launch_accept, host.accept, judged)
        ended = position, *host.accept(*judged), tree.rows, MAX_LEN
        beside.note(f"followed {name}", cuda.launch_followed, host.followed, ended)
        path, values = host.followed(*ended), torch.randn(40, 2, 2, 16, 2, 150)
        tables = torch.randperm(39, dtype=torch.int32)[: SLOTS * 7].view(SLOTS, 7) + 1
        where, ours = (tables, slots, path.come, path.to), there(values.clone(), beside.device)
        host.move(values, *where)
        cuda.launch_move(ours, *there(where, beside.device))
        beside.found[f"move {name}"] = unlike(ours, values)


def grown(beside: Beside) -> None:
    """Levels of trees over vocabularies of one chunk and of several; a NaN stays inside."""
    device, found = beside.device, beside.found
    for (depth, width), vocabulary in product(((1, 1), (3, 1), (3, 3), (2, 7)), (7, 4096, 9000)):
        torch.manual_seed(depth)
        token, position = torch.tensor([3, 4, 5]), torch.tensor([10, MAX_LEN, MAX_LEN - 2])
        offsets = torch.randint(0, 50, (vocabulary,)) if vocabulary > 7 else None
        drafts = torch.full((3, 3, 1 + depth * width), -1)
        made, scores = there(drafts.clone(), device), None
        for level in range(depth):
            logits = torch.randn(3 * (1 if scores is None else width), vocabulary) * 3
            rest = level, width, offsets, token, position, MAX_LEN
            known = there((logits, scores), device)
            ours = cuda_grow.launch(*known, made, *there(rest, device))
            theirs = grow.grown(logits, scores, drafts, *rest)
            name = f"grown {depth}x{width} {vocabulary} {level}"
            found[name] = sum(map(unlike, ours[1:], theirs[1:]))
            found[name] += int((ours.scores.cpu() - theirs.scores).abs().max() > 1e-5)
            scores = theirs.scores
        found[f"drafts {depth}x{width} {vocabulary}"] = unlike(made, drafts)
        logits[0] = float("nan")
        ours = cuda_grow.launch(*there((logits, scores), device), made, *there(rest, device))
        inside = (ours.tokens >= 0) & (ours.tokens < vocabulary + 50)
        found[f"nan {depth}x{width} {vocabulary}"] = int((~inside).sum())


def stayed(beside: Beside) -> None:
    """Drafted tokens that may stay, with windows from one to as many as there may be."""
    for rows, window in ((3, 1), (5, 1), (5, 3), (24, 4)):
        torch.manual_seed(rows)
        tokens = torch.randint(0, 2, (6, rows))
        alike = torch.rand(6, rows) < 0.8
        choices = torch.where(alike, tokens.roll(-1, 1), 7)
        logits = torch.randn(6 * rows, 60) * torch.rand(6 * rows, 1) * 8
        on = there((tokens, choices, logits), beside.device)
        entropy = cuda_likelihood.launch(on[2], on[1].flatten(), -100.0)[1]
        ours = cuda_loose.launch(*on[:2], entropy, window, 0.4 * math.log(60))
        found = loose.stay(tokens, choices, logits, window, 0.4)
        beside.found[f"stays {rows} {window}"] = unlike(ours, found)


def wrong(device: str) -> dict[str, int]:
    """By kernel and case."""
    beside = Beside(device)
    accepted(beside)
    grown(beside)
    stayed(beside)
    return beside.found
