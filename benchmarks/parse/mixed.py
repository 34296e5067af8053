"""A server's steps with and without passes of prompts and steps together: times, and loads.

The scheduler over real passes, without text and HTTP: a token is told in a microsecond.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.parse.gain import Listener
from benchmarks.parse.measure import CapturedSession, steady_seconds
from benchmarks.parse.models import Model
from benchmarks.parse.steps import request
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.sizes import PassSizes, mixed_sizes, prompts_of


@dataclass(frozen=True)
class Load:
    """What is asked for: prompts and answers of so many tokens."""

    prompt: int = 256
    answer: int = 128
    slots: int = 256
    prefill: tuple[int, ...] = (256, 384, 512, 1024, 2048)
    decode: tuple[int, ...] = (1, 16, 32, 64, 72, 80, 96, 128, 192, 256)
    mixed: tuple[int, ...] = (32, 64, 96, 128, 192, 256)
    concurrent: tuple[tuple[int, int], ...] = ((64, 256), (256, 512))
    """Requests at a time, and in all."""
    rate: float = 34.0
    """Requests a second that arrive at random,"""
    arrivals: int = 340
    """and how many do."""

    @property
    def sizes(self) -> PassSizes:
        prompts = [prompts_of(rows, self.slots) for rows in self.prefill]
        return PassSizes(
            max_len=self.prompt + self.answer, slots=self.slots, prefill=self.prefill,
            prompts=tuple(prompts), decode=self.decode,
            mixed=mixed_sizes(self.prefill, self.mixed, self.slots),
        )  # fmt: skip


TINY = Load(16, 8, 4, (64, 96), (1, 4), (2, 4), ((3, 9),), 200.0, 9)
"""For trying the benchmark on a CPU."""


@dataclass(eq=False)
class _Timed(Listener):
    """When each token of an answer came; `asked` is when it was asked for."""

    asked: float
    heard: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def tokens(self, tokens: Sequence[int], logprobs: Sequence[object] = ()) -> None:
        self.heard += tokens
        self.times += [time.perf_counter()] * len(tokens)


def loads(model: Model, device: str, load: Load) -> Iterator[dict[str, Any]]:
    """Rows of results: milliseconds of each pass, then each load with and without mixed passes."""
    session = CapturedSession(device)
    passes = Passes("target", *model, load.sizes, session.register, run_ahead=True)
    session.add(passes)
    with torch.inference_mode():
        yield from _passes(session, GraphTarget(session, passes.signature), load)
        for mixed in (False, True):
            sizes = load.sizes if mixed else replace(load.sizes, mixed=())

            def run(drive: Callable[..., list[_Timed]], *how: Any, s: PassSizes = sizes) -> Any:
                # A new one knows of no inputs that another has overwritten.
                target = GraphTarget(session, replace(passes.signature, sizes=s))
                begun = time.perf_counter()
                heard = drive(Scheduler(target, target), load, *how)
                return _found(heard, load, time.perf_counter() - begun)

            yield {"load": "arrivals", "rate": load.rate, "mixed": mixed, **run(_arriving)}
            for count, total in load.concurrent:
                yield {"load": "at a time", "count": count, "mixed": mixed,
                       **run(_at_a_time, count, total)}  # fmt: skip


def _passes(session: CapturedSession, target: GraphTarget, load: Load) -> Iterator[dict[str, Any]]:
    """Each pass on rows of random tokens, one after the other: padding takes a seventh less time.

    Steps see keys of a prompt and half an answer.
    """
    draw, here = random.Random(1), load.prompt + load.answer // 2

    def tokens(count: int) -> list[int]:
        return [draw.randrange(100) for _ in range(count)]

    def chunks(rows: int, prompts: int) -> list[Chunk]:
        each = [min(load.prompt, rows - begun) for begun in range(0, rows, load.prompt)]
        return [
            Chunk(load.slots - 1 - i, tokens(count), 0, Sampling())
            for i, count in enumerate(each[:prompts])
        ]

    def step(count: int) -> Batch:
        return Batch(list(range(count)), tokens(count), [here] * count, [Sampling()] * count)

    target.prefill_all([Chunk(slot, tokens(here), 0, Sampling()) for slot in range(load.slots)])
    launches: list[Callable[[], object]] = [
        *(lambda size=size: target.begin_prefill(chunks(*size))() for size in target.prefills),
        *(lambda count=count: target.decode(step(count)) for count in load.sizes.batches),
        *(
            lambda size=size: target.begin_mixed(chunks(*size[:2]), step(size.batch))()
            for size in target.mixed
        ),
    ]  # fmt: skip
    for launch, (name, key) in zip(launches, session.graphs, strict=True):
        launch()
        seconds = steady_seconds(session.graph(name, **key).launch)
        yield {"pass": name, **key, "ms": round(1e3 * seconds, 3)}


def _arriving(scheduler: Scheduler, load: Load) -> list[_Timed]:
    """Requests that come whether or not others are done."""
    draw, heard = random.Random(1), []
    gaps = [draw.expovariate(load.rate) for _ in range(load.arrivals)]
    begun = time.perf_counter()
    left = [begun + at for at in itertools.accumulate(gaps)]
    while left:
        while left and left[0] <= time.perf_counter():
            heard.append(_submit(scheduler, load, len(heard), left.pop(0)))
        if not scheduler.step() and left:
            time.sleep(max(0.0, left[0] - time.perf_counter()))
    while scheduler.step():
        pass
    return heard


def _at_a_time(scheduler: Scheduler, load: Load, count: int, total: int) -> list[_Timed]:
    """Requests that come as soon as another is done."""
    heard: list[_Timed] = []
    more = True
    while more or len(heard) < total:
        while len(heard) < total and scheduler.running + scheduler.waiting < count:
            heard.append(_submit(scheduler, load, len(heard), time.perf_counter()))
        more = scheduler.step()
    return heard


def _submit(scheduler: Scheduler, load: Load, number: int, asked: float) -> _Timed:
    first = 7 * number % 100
    scheduler.submit(
        request(list(range(first, first + load.prompt)), load.answer), listener := _Timed(asked)
    )
    return listener


def _found(heard: Sequence[_Timed], load: Load, seconds: float) -> dict[str, Any]:
    """`right`: answers that count on from their prompt, as the model's weights have it."""
    first = [1e3 * (one.times[0] - one.asked) for one in heard]
    between = [1e3 * (b - a) for one in heard for a, b in itertools.pairwise(one.times)]
    ends = [7 * number % 100 + load.prompt for number in range(len(heard))]
    right = sum(
        one.heard == list(range(end, end + load.answer))
        for one, end in zip(heard, ends, strict=True)
    )
    return {
        "requests": len(heard), "right": right, "seconds": seconds,
        "tokens_per_second": len(heard) * load.answer / seconds,
        "first_token_ms": _shares(first), "between_tokens_ms": _shares(between),
    }  # fmt: skip


def _shares(values: Sequence[float]) -> dict[str, float]:
    rising = sorted(values)
    return {f"p{share}": round(rising[len(rising) * share // 100], 3) for share in (50, 90, 99)}
