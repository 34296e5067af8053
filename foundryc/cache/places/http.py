"""http(s) as a place that is only read: `<url>/<key>.fdy`, any server that knows ranges."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem

from foundryc.cache.entry import admit
from foundryc.cache.errors import NotWritable, Unreachable
from foundryc.cache.places.base import SUFFIX, Entry, check_key
from foundryc.cache.places.machine import claim_here
from foundryc.cache.transfer import LIMITS, download

_FAILURES = (aiohttp.ClientError, OSError)
# Too early, too often, or the server's own trouble: worth another attempt.
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class HttpPlace:
    """Credentials come from ~/.netrc, proxies from the environment, as aiohttp reads them."""

    writable = False

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        timeout = aiohttp.ClientTimeout(total=LIMITS.seconds, sock_connect=10)
        self._fs: Any = HTTPFileSystem(
            skip_instance_cache=True, client_kwargs={"timeout": timeout, "trust_env": True}
        )

    def fetch(self, key: str, path: Path) -> bool:
        """As in Place."""
        url = f"{self.url}/{check_key(key)}{SUFFIX}"

        def read(start: int, end: int) -> bytes:
            return bytes(sync(self._fs.loop, self._range, url, start, end))

        try:
            download(f"cache {self.url}", read, path, _FAILURES)
        except FileNotFoundError:
            return False
        admit(path, key)
        return True

    async def _range(self, url: str, start: int, end: int) -> bytes:
        session = await self._fs.set_session()
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        async with session.get(url, headers=headers) as answer:
            if answer.status == 404:
                raise FileNotFoundError(url)
            if answer.status in _AGAIN:
                answer.raise_for_status()
            if answer.status != 206:
                raise Unreachable(f"cache {self.url}: answers {answer.status}, not with a range")
            # However much it sends, no more than one byte too many is kept.
            data = bytearray()
            async for block in answer.content.iter_chunked(1 << 16):
                data += block
                if len(data) > end - start:
                    break
            return bytes(data)

    def store(self, key: str, path: Path) -> None:
        """Never: NotWritable."""
        raise NotWritable(f"cache {self.url}: http places are only read")

    def claim(self, key: str) -> AbstractContextManager[object] | None:
        """As in Place, among the processes of this machine."""
        return claim_here(self.url, key)

    def entries(self) -> list[Entry]:
        """Never: a web server has no listing. NotWritable."""
        raise NotWritable(f"cache {self.url}: http places cannot be listed")

    def evict(self, key: str) -> None:
        """Never: NotWritable."""
        raise NotWritable(f"cache {self.url}: http places are only read")
