"""Streaming text that ends at a stop string, and never shows the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence

from parse_runtime.text.tokenizer import Stream


class StopText:
    """Text of a growing answer, up to the stop string that is complete first.

    The texts joined do not depend on how the tokens are pushed.
    """

    def __init__(self, stream: Stream, stops: Sequence[str]) -> None:
        self._stream, self._stops = stream, [stop for stop in stops if stop]
        self._held = ""
        self.length = 0
        """Characters of all that was pushed."""
        self.ended = False
        """A stop string has come; nothing may be pushed any more."""

    def push(self, token: int) -> str:
        """The text that is certain to be part of the answer now."""
        new = self._stream.push(token)
        self.length += len(new)
        if not self._stops:
            return new
        self._held += new
        found = [(at + len(s), at) for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.ended = True
            end = min(found)[1]
        else:
            end = len(self._held) - self._possible()
        text, self._held = self._held[:end], self._held[end:]
        return text

    def rest(self) -> str:
        """What was held back, for an answer that ended otherwise."""
        return "" if self.ended else self._held + self._stream.rest()

    def fork(self) -> StopText:
        """Goes on from here by itself."""
        other = StopText(self._stream.fork(), self._stops)
        other._held = self._held
        return other

    def _possible(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
