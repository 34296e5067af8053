"""What the host adds to a decode step: the engine's steps beside their graph alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.parse.gain import Listener
from benchmarks.parse.measure import CapturedSession, wall_seconds
from benchmarks.parse.models import Model
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.request import Request
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.sizes import PassSizes
from parse_runtime.text.translation import SameTokens

SLOTS = 256
"""As a server's bundle has them; sequences fill some."""


@dataclass(eq=False)
class _Listener(Listener):
    """Keeps the tokens; there is no text to make of them."""

    heard: list[int] = field(default_factory=list)

    def tokens(self, tokens: Sequence[int], logprobs: Sequence[object] = ()) -> None:
        self.heard += tokens


def host_share(
    model: Model, device: str, batch: int, prompt: int, steps: int, run_ahead: bool
) -> dict[str, Any]:
    """Seconds a step of `batch` sequences of the target alone, from position `prompt` on.

    `seconds_graph`: launches in turn without reading, waited for at the end; `seconds_engine`:
    steps of the scheduler. `host_share` is 1 - graph / engine. Without `run_ahead`, all launches
    are of the first step.
    """
    # Answers go on behind the last step that is timed.
    length = prompt + steps + 8
    sizes = PassSizes(max_len=length, slots=SLOTS, prefill=(prompt,), decode=(batch,))
    session = CapturedSession(device)
    passes = Passes("target", *model, sizes, session.register, run_ahead=run_ahead)
    session.add(passes)
    target = GraphTarget(session, passes.signature)
    slots, start = list(range(batch)), [prompt] * batch
    with torch.inference_mode():
        target.decode(Batch(slots, slots, start, [Sampling()] * batch))
        graph = session.graph("target.decode", batch=batch)

        def launches() -> None:
            for _ in range(steps):
                graph.launch()

        alone = wall_seconds(launches) / steps
        engine, heard = _engine_seconds(target, batch, prompt, steps)
    return {
        "batch": batch, "prompt": prompt, "run_ahead": run_ahead, "seconds_graph": alone,
        "seconds_engine": engine, "host_share": 1 - alone / engine, "follows": heard[:4],
    }  # fmt: skip


def _engine_seconds(
    target: GraphTarget, batch: int, prompt: int, steps: int
) -> tuple[float, list[int]]:
    """Of a step, and the tokens of the first answer."""
    # No answer asks for a draft. All prompts are read in the first steps.
    scheduler = Scheduler(target, target, prefill_rows=batch * prompt)
    listeners = [_Listener() for _ in range(batch)]
    for slot, listener in enumerate(listeners):
        scheduler.submit(request(list(range(slot, slot + prompt)), steps + 8), listener)
    while not all(len(listener.heard) >= 4 for listener in listeners):
        scheduler.step()
    begun = time.perf_counter()
    for _ in range(steps):
        scheduler.step()
    seconds = (time.perf_counter() - begun) / steps
    while scheduler.step():
        pass
    return seconds, listeners[0].heard


def request(prompt: list[int], new_tokens: int) -> Request:
    """For an answer of the target alone."""
    return Request(
        prompt=prompt, draft_prompt=prompt, suffix=(), stops=frozenset(),
        translation=SameTokens(frozenset()), cuts=lambda draft: [], max_new_tokens=new_tokens,
        rules=Rules(max_rounds=0), sampling=Sampling(),
    )  # fmt: skip
