"""Training of the pair.

In order: the draft on solutions; its samples; the target on solutions and on verdicts of prefixes
of right, corrupted and sampled answers; an EAGLE-3 head on the target's features.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from typer import Option

from benchmarks.arith import judged, task, verdicts
from benchmarks.arith.generation import dtype, generate, right
from benchmarks.arith.network import Layer, Network, Size
from benchmarks.report import chosen
from parse_runtime.training import eagle3
from parse_runtime.training.schedule import Clock, optimizer

TARGET = Size(layers=32, hidden=128, intermediate=384, heads=4, kv_heads=2)
DRAFT = Size(layers=2, hidden=128, intermediate=256, heads=2, kv_heads=1)
SHARES = {"draft": 0.2, "target": 0.6, "eagle3": 0.2}
"""Of the minutes."""


@dataclass(frozen=True)
class Plan:
    """What is trained, how long and from what."""

    folder: Path
    stages: list[str]
    minutes: float
    seed: int
    batch: int
    problems: int
    layers: int
    rate: float
    draft_accuracy: float
    resume: Path | None


def run(
    output: Annotated[
        Path, Option("--output", "-o", metavar="FOLDER", help="Where the three models go.")
    ],
    minutes: Annotated[float, Option(help="Of training, all in all.")] = 8.0,
    seed: int = 0,
    batch: Annotated[int, Option(help="Problems a step.")] = 192,
    problems: Annotated[int, Option(help="Problems of each measurement.")] = 4096,
    layers: Annotated[int, Option(help="Of the target.")] = TARGET.layers,
    rate: Annotated[float, Option(help="Highest learning rate of the target.")] = 1.5e-3,
    draft_accuracy: Annotated[float, Option(help="Where the draft's training ends.")] = 0.75,
    stages: Annotated[str, Option(help="What is trained, in order, comma-separated.")] = ",".join(
        SHARES
    ),
    resume: Annotated[
        Path | None, Option(help="Folder of models: those of other stages, and beginnings.")
    ] = None,
) -> None:
    """Train target, draft and EAGLE-3 head of the arithmetic task, and measure them."""
    wanted = chosen(stages, tuple(SHARES), "--stages")
    Training(
        Plan(output, wanted, minutes, seed, batch, problems, layers, rate, draft_accuracy, resume)
    ).run()


class Training:
    """The three stages, each of which saves its model and what was measured of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.plan.seed)
        self.generator = torch.Generator(self.device).manual_seed(self.plan.seed)
        self.problems = task.draw(self.plan.problems, self.generator)
        self.report: dict[str, Any] = {"seed": self.plan.seed, "device": _device_name(self.device)}
        self.plan.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        stages = self.plan.stages
        shares = {stage: SHARES[stage] for stage in stages}
        for stage in stages:
            seconds = 60 * self.plan.minutes * shares[stage] / sum(shares.values())
            self.report[stage] = getattr(self, stage)(seconds)
            text = json.dumps(self.report, indent=1) + "\n"
            (self.plan.folder / "training.json").write_text(text, encoding="utf-8")
            print(json.dumps(self.report), flush=True)

    def draft(self, seconds: float) -> dict[str, Any]:
        """Trained on solutions until it is as good as it should be."""
        network = Network(DRAFT).to(self.device)

        def good_enough(steps: int) -> bool:
            if steps % 20 or steps < 400:
                return False
            return (
                self._accuracy(network, task.draw(512, self.generator)) >= self.plan.draft_accuracy
            )

        solutions = _solutions(self.plan.batch, self.generator)
        found = fit(network, solutions, seconds, 2e-3, good_enough)
        network.save(self.plan.folder / "draft")
        return {**found, "accuracy": self._accuracy(network, self.problems)}

    def target(self, seconds: float) -> dict[str, Any]:
        """Trained on solutions and verdicts."""
        draft = self._load("draft", DRAFT)
        pool = _pool(draft, 4 * self.plan.problems, self.generator)
        size = replace(TARGET, layers=self.plan.layers)
        begun = self.plan.resume and (self.plan.resume / "target").exists()
        network = self._load("target", size) if begun else Network(size).to(self.device)
        examples = _examples(self.plan.batch, pool, self.generator)
        found: dict[str, Any] = fit(network, examples, seconds, self.plan.rate)
        network.save(self.plan.folder / "target")
        found["accuracy"] = self._accuracy(network, self.problems)
        drafted = generate(draft, self.problems, 0.0, self.generator)
        return {**found, "verdicts": verdicts.measure(network, self.problems, drafted)}

    def eagle3(self, seconds: float) -> dict[str, Any]:
        """Trained on the target's features."""
        begun = self.plan.resume and self.plan.resume / "eagle3"
        settings = eagle3.Settings(
            seconds=seconds,
            vocabulary=task.alphabet(),
            resume=begun if begun and begun.exists() else None,
        )
        data = _conversations(self.plan.batch, self.generator)
        target = self._folder("target")
        return eagle3.train(target, data, self.plan.folder / "eagle3", settings, self.device)

    def _accuracy(self, network: Network, problems: task.Problems) -> float:
        answers = generate(network, problems, 0.0, self.generator)
        return right(problems, answers).float().mean().item()

    def _load(self, name: str, size: Size) -> Network:
        network = Network(size)
        network.load_state_dict(load_file(self._folder(name) / "model.safetensors"))
        return network.to(self.device)

    def _folder(self, name: str) -> Path:
        """Of a model that this training made, or one that it goes on from."""
        made: Path = self.plan.folder / name
        return made if made.exists() or not self.plan.resume else self.plan.resume / name


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
    n, alone = judged.SHARED, batch.labels.shape[1] == judged.SHARED
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
        n = judged.SHARED
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
        answers = torch.cat((rows, sampled[chosen]))
        yield judged.batch(_joined([fresh, pooled.at(chosen)]), answers, generator)


def _conversations(count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens [B, SHARED] and where the answer is, for the head."""
    for batch in _solutions(count, generator):
        answers = batch.labels != judged.IGNORED
        yield batch.tokens, answers.roll(1, 1)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
