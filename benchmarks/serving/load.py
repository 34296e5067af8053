"""A load of streamed completions on a server, from a process of its own.

`python -m benchmarks.serving.load` reads a `Plan` as JSON and prints what was measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.stream import Connection, Reply, Told, read, request


@dataclass(frozen=True)
class Plan:
    """Prompts of random tokens, each answered by those that count on from its last one.

    So do the models of `model_folder.py`.
    """

    port: int
    model: str
    prompt: int
    tokens: int
    seed: int
    pieces: str
    """JSON file: the text of each token."""
    limit: float
    """Seconds after which what is not answered has failed."""
    requests: int
    concurrent: int = 0
    """So many at a time; 0: at Poisson arrivals."""
    rate: float = 0.0
    """Arrivals a second."""


def prompts(plan: Plan, vocab: int) -> list[list[int]]:
    """Random tokens that are whole characters, as are those of the answers."""
    drawn = random.Random(plan.seed)
    return [
        [drawn.randrange(256, vocab - plan.tokens) for _ in range(plan.prompt)]
        for _ in range(plan.requests)
    ]


def arrivals(plan: Plan) -> list[float]:
    """Seconds from the beginning, the same for each server."""
    drawn, times = random.Random(plan.seed), [0.0]
    while len(times) < plan.requests:
        times.append(times[-1] + drawn.expovariate(plan.rate))
    return times


class Load:
    """Requests on their way; connections are used again."""

    def __init__(self, plan: Plan, questions: Sequence[bytes]) -> None:
        self._plan, self._questions = plan, questions
        self._idle: list[Connection] = []
        self.asked = [0.0] * len(questions)
        """When each was due."""
        self.replies = [Reply() for _ in questions]

    async def run(self) -> None:
        """All of them; what is not answered within the limit stays as it is."""
        plan = self._plan
        work = self._arriving() if plan.rate else self._in_turn()
        try:
            async with asyncio.timeout(plan.limit):
                await work
        except TimeoutError:
            print("the load ran out of time", file=sys.stderr)

    async def _in_turn(self) -> None:
        numbers = iter(range(len(self._questions)))

        async def asker() -> None:
            for number in numbers:
                self.asked[number] = time.perf_counter()
                await self._ask(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.concurrent):
                group.create_task(asker())

    async def _arriving(self) -> None:
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, after in enumerate(arrivals(self._plan)):
                self.asked[number] = due = begun + after
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._ask(number))

    async def _ask(self, number: int) -> None:
        while self._idle and not self._idle[-1].open:
            self._idle.pop()
        try:
            connection = self._idle.pop() if self._idle else await Connection.to(self._plan.port)
        except OSError:
            return
        self.replies[number] = await connection.ask(self._questions[number])
        self._idle.append(connection)


def measure(plan: Plan) -> dict[str, Any]:
    """Run a load; rates and times of it."""
    with open(plan.pieces) as file:
        pieces = json.load(file)
    asked = prompts(plan, len(pieces))
    questions = [
        request(
            "/v1/completions",
            {
                "model": plan.model, "prompt": tokens, "max_tokens": plan.tokens,
                "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True},
            },
        )
        for tokens in asked
    ]  # fmt: skip
    expected = ["".join(pieces[t[-1] + 1 : t[-1] + 1 + plan.tokens]) for t in asked]
    load = Load(plan, questions)
    gc.disable()
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(load.run())
    seconds, spent = time.perf_counter() - wall, time.process_time() - cpu
    told = [read(reply) for reply in load.replies]
    return report(told, load.asked, expected) | {"client_cpu_share": spent / seconds}


def report(told: Sequence[Told], asked: Sequence[float], expected: Sequence[str]) -> dict[str, Any]:
    """What the replies say together."""
    good = [(one, since) for one, since in zip(told, asked, strict=True) if not one.error]
    errors = [one.error for one in told if one.error]
    found: dict[str, Any] = {
        "requests": len(told), "failed": len(errors), "errors": errors[:3],
        "right": sum(a.text == b for a, b in zip(told, expected, strict=True)),
    }  # fmt: skip
    if not any(one.times for one, _ in good):
        return found
    tokens = sum(one.tokens for one, _ in good)
    seconds = max(one.times[-1] for one, _ in good) - min(asked)
    gaps = [gap for one, _ in good for gap in one.gaps]
    return found | {
        "tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds,
        "tokens_per_chunk": tokens / sum(len(one.times) for one, _ in good),
        "first_token_ms": percentiles([one.times[0] - since for one, since in good]),
        "between_tokens_ms": percentiles(gaps),
        "time_per_token_ms": percentiles(
            [(one.times[-1] - one.times[0]) / max(1, one.tokens - 1) for one, _ in good]
        ),
    }  # fmt: skip


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and largest, in milliseconds."""
    ranked = sorted(seconds)
    at = {"p50": 0.5, "p99": 0.99, "most": 1.0}
    return {
        name: ranked[min(int(share * len(ranked)), len(ranked) - 1)] * 1e3
        for name, share in at.items()
    }


if __name__ == "__main__":
    print(json.dumps(measure(Plan(**json.load(sys.stdin)))))
