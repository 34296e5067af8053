"""Where new requests wait while there is no bundle to answer them with."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future


class Gate:
    """Open at first; of any thread."""

    def __init__(self) -> None:
        self._opening: Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether requests have to wait."""
        return self._opening is not None

    def close(self) -> None:
        """Have them wait until `open` or `fail`."""
        self._opening = Future()

    def open(self) -> None:
        """Let all through; one that is open stays so."""
        opening, self._opening = self._opening, None
        if opening:
            opening.set_result(None)

    def fail(self, error: Exception) -> None:
        """Where it is closed: end those that wait, and all that come, with `error`."""
        if self._opening:
            self._opening.set_exception(error)

    async def passed(self) -> bool:
        """Wait until it is open; whether that took waiting."""
        if (opening := self._opening) is None:
            return False
        # Shielded: a request that ends must not end the others' waiting.
        await asyncio.shield(asyncio.wrap_future(opening))
        return True
