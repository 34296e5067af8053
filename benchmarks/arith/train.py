"""Train the pair: `python -m benchmarks.arith.train --out FOLDER --minutes 4`.

In order: the draft on solutions; its samples; the target on solutions and on verdicts of prefixes
of right, corrupted and sampled answers; an EAGLE-3 head on the target's features.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.arith import judged, task, verdicts
from benchmarks.arith.generation import dtype, generate, right
from benchmarks.arith.network import Layer, Network, Size
from parse_runtime.training import eagle3
from parse_runtime.training.schedule import Clock, optimizer

TARGET = Size(layers=32, hidden=128, intermediate=384, heads=4, kv_heads=2)
DRAFT = Size(layers=2, hidden=128, intermediate=256, heads=2, kv_heads=1)
SHARES = {"draft": 0.2, "target": 0.6, "eagle3": 0.2}
"""Of the minutes."""


def main() -> None:
    """Parse the command line; train, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the three models")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, all in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=192, help="problems a step")
    parser.add_argument("--problems", type=int, default=4096, help="of each measurement")
    parser.add_argument("--layers", type=int, default=TARGET.layers, help="of the target")
    parser.add_argument(
        "--draft-accuracy", type=float, default=0.75, help="where the draft's training ends"
    )
    parser.add_argument("--resume", type=Path, help="folder whose target is trained on")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest, of the target")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    generator = torch.Generator(device).manual_seed(arguments.seed)
    seconds = {name: 60 * arguments.minutes * share for name, share in SHARES.items()}
    report: dict[str, Any] = {"seed": arguments.seed, "device": _device_name(device)}

    draft = Network(DRAFT).to(device)
    solutions = _solutions(arguments.batch, generator)
    problems = task.draw(arguments.problems, generator)

    def good_enough(steps: int) -> bool:
        if steps % 20 or steps < 400:
            return False
        few = task.draw(512, generator)
        share = right(few, generate(draft, few, 0.0, generator)).float().mean().item()
        return share >= arguments.draft_accuracy

    report["draft"] = fit(draft, solutions, seconds["draft"], 2e-3, good_enough)
    answers = generate(draft, problems, 0.0, generator)
    report["draft"]["accuracy"] = right(problems, answers).float().mean().item()
    draft.save(arguments.out / "draft")
    _save(report, arguments.out)

    pool = _pool(draft, 4 * arguments.problems, generator)
    target = Network(replace(TARGET, layers=arguments.layers))
    if arguments.resume:
        target.load_state_dict(load_file(arguments.resume / "target" / "model.safetensors"))
    target.to(device)
    examples = _examples(arguments.batch, pool, generator)
    report["target"] = fit(target, examples, seconds["target"], arguments.rate)
    written = generate(target, problems, 0.0, generator)
    report["target"]["accuracy"] = right(problems, written).float().mean().item()
    target.save(arguments.out / "target")
    report["verdicts"] = verdicts.measure(target, problems, answers)
    _save(report, arguments.out)

    data = _conversations(arguments.batch, generator)
    report["eagle3"] = eagle3.train(
        arguments.out / "target", data, arguments.out / "eagle3",
        eagle3.Settings(seconds=seconds["eagle3"], vocabulary=task.alphabet()), device,
    )  # fmt: skip
    _save(report, arguments.out)


def fit(
    network: Network,
    batches: Iterator[judged.Batch],
    seconds: float,
    rate: float,
    enough: Callable[[int], bool] = lambda steps: False,
) -> dict[str, float]:
    """Train for a time, or until it is `enough`; steps, last loss and seconds."""
    device = network.lm_head.weight.device
    probe = nn.Linear(network.size.hidden, 2).to(device)
    tap = max(network.size.layers - 4, 1)
    run = torch.compile(Layer.forward, dynamic=False) if device.type == "cuda" else Layer.forward
    adam = optimizer([network, probe], rate)
    clock = Clock(seconds, adam, rate)
    begin = time.perf_counter()
    while clock.running():
        batch = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = _loss(network, probe, tap, batch, run)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*network.parameters(), *probe.parameters()], 1.0)
        adam.step()
        clock.step(loss)
        if enough(clock.steps):
            break
    return {"steps": clock.steps, "loss": loss.item(), "seconds": time.perf_counter() - begin}


def _loss(
    network: Network,
    probe: nn.Module,
    tap: int,
    batch: judged.Batch,
    run: Callable[..., Tensor],
) -> Tensor:
    """Cross entropy of solutions, of verdicts and, in a layer below the last, of whether the answer
    is right so far at every token. The last is for training alone: verdicts are few, it is dense.
    """
    n, alone = judged.TRUNK, batch.labels.shape[1] == judged.TRUNK
    mask = None if alone else batch.mask.to(dtype(batch.mask.device))
    hidden, tapped = network(batch.tokens, batch.positions, mask, tap, run)
    written = _entropy(network.lm_head(hidden[:, :n]), batch.labels[:, :n])
    if alone:
        return written
    s = len(judged.SUFFIX)
    verdicts = _entropy(network.lm_head(hidden[:, n + s - 1 :: s]), batch.labels[:, n + s - 1 :: s])
    return written + verdicts + 0.5 * _entropy(probe(tapped[:, :n]), batch.right)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Without a choice of rows: their number would have to come to the host."""
    flat = logits.float().flatten(0, 1)
    return F.cross_entropy(flat, labels.flatten(), ignore_index=judged.IGNORED)


def _solutions(count: int, generator: torch.Generator) -> Iterator[judged.Batch]:
    """Right answers without suffixes."""
    while True:
        problems = task.draw(count, generator)
        full = judged.batch(problems, task.answers(problems, problems.values()), generator)
        n = judged.TRUNK
        yield replace(
            full,
            tokens=full.tokens[:, :n],
            positions=full.positions[:, :n],
            labels=full.labels[:, :n],
        )


Pool = tuple[task.Problems, Tensor]


def _pool(draft: Network, count: int, generator: torch.Generator) -> Pool:
    """Problems and answers of the draft, greedy and sampled."""
    parts = []
    for temperature in (0.0, 0.5, 1.0):
        problems = task.draw(count, generator)
        parts.append((problems, generate(draft, problems, temperature, generator)))
    return _joined([p for p, _ in parts]), torch.cat([a for _, a in parts])


def _joined(parts: list[task.Problems]) -> task.Problems:
    names = ("start", "operators", "operands", "steps")
    return task.Problems(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _examples(count: int, pool: Pool, generator: torch.Generator) -> Iterator[judged.Batch]:
    """Half right, a quarter corrupted, a quarter written by the draft."""
    quarter, (pooled, sampled) = count // 4, pool
    while True:
        fresh = task.draw(count - quarter, generator)
        rows = task.answers(fresh, fresh.values())
        rows[:quarter] = judged.corrupted(fresh, generator)[:quarter]
        chosen = torch.randint(0, len(sampled), (quarter,), generator=generator, device=rows.device)
        old = task.Problems(
            pooled.start[chosen], pooled.operators[chosen], pooled.operands[chosen],
            pooled.steps[chosen],
        )  # fmt: skip
        answers = torch.cat((rows, sampled[chosen]))
        yield judged.batch(_joined([fresh, old]), answers, generator)


def _conversations(count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens [B, TRUNK] and where the answer is, for the head."""
    for batch in _solutions(count, generator):
        answers = batch.labels != judged.IGNORED
        yield batch.tokens, answers.roll(1, 1)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _save(report: dict[str, Any], folder: Path) -> None:
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
