"""A listener that keeps the result of one request, and shows its text as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parse_runtime.engine.request import Request, Statistics
from parse_runtime.sampling.sampler import TokenLogprobs
from parse_runtime.text.stopping import StopText


@dataclass(eq=False)
class Outcome:
    """`show` gets each new part of the text."""

    request: Request
    stopping: StopText
    show: Callable[[str], object] = lambda text: None
    text: str = ""
    reason: str = ""
    error: Exception | None = None
    statistics: Statistics = field(default_factory=Statistics)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Of each token, where the request asks for them."""

    @property
    def done(self) -> bool:
        return bool(self.reason or self.error)

    def tokens(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> int | None:
        text, taken = "", None
        for count, token in enumerate(tokens, start=1):
            for entry in logprobs[count - 1 : count]:
                self.logprobs.append(replace(entry, offset=self.stopping.length))
            text += self.stopping.push(token)
            if self.stopping.ended:
                taken = count
                break
        self._say(text)
        return taken

    def draft_end(self) -> Callable[[int], bool]:
        ahead = self.stopping.fork()

        def ends(token: int) -> bool:
            ahead.push(token)
            return ahead.ended

        return ends

    def finished(self, reason: str, statistics: Statistics) -> None:
        self._say(self.stopping.rest())
        self.reason, self.statistics = reason, statistics

    def failed(self, error: Exception) -> None:
        self.error = error

    def report(self) -> dict[str, Any]:
        """JSON-able: the text and its counts, or the error."""
        if self.error is not None:
            return {"error": str(self.error), "prompt_tokens": len(self.request.prompt)}
        return {
            "text": self.text,
            "finish_reason": self.reason,
            "prompt_tokens": len(self.request.prompt),
            **self.statistics.report(),
        }

    def summary(self) -> str:
        """Counts and times in a line."""
        counts = self.statistics
        report = counts.report()
        cancelled = "cancelled; " if self.reason == "cancelled" else ""
        each = report["tokens_per_advance"]
        ahead = f", {each:.2f} tokens a target pass" if counts.advances else ""
        return (
            f"{cancelled}{report['tokens_per_second']:.1f} tokens/s, {counts.tokens} tokens in "
            f"{counts.seconds:.2f} s; drafted {counts.drafted}, accepted {counts.accepted}"
            f"{ahead}; seconds: queue "
            f"{counts.queue_seconds:.2f}, prefill {counts.prefill_seconds:.2f}, draft "
            f"{counts.draft_seconds:.2f}, verify {counts.verify_seconds:.2f}, resume "
            f"{counts.resume_seconds:.2f}"
        )

    def _say(self, text: str) -> None:
        self.text += text
        if text:
            self.show(text)
