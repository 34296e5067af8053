"""Ranges of files on a web server; credentials from ~/.netrc, proxies from the environment."""

from __future__ import annotations

from typing import Any

import aiohttp
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem
from yarl import URL

from foundryrt.errors import Unreachable, UsageError
from foundryrt.remote import attempts
from foundryrt.remote.local import without_query

FAILURES = (aiohttp.ClientError, OSError)
# Too early, too often, or the server's own trouble: worth another attempt.
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
DENIED = {
    401: "answers 401, it wants credentials that it did not get",
    403: "answers 403, access is denied",
    407: "answers 407, the proxy wants credentials",
}


def check_url(url: str) -> URL:
    """A URL that a server can be asked for; UsageError for one without a host, or a wrong port."""
    try:
        address = URL(url, encoded="?" in url)
        sound = bool(address.host) and (address.port or 0) < 1 << 16
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(f"{without_query(url)}: write http(s)://HOST/NAME or HOST:PORT/NAME")
    return address


class HttpRanges:
    """Reads ranges; any server that knows them will do."""

    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(total=attempts.LIMITS.seconds, sock_connect=10)
        self._fs: Any = HTTPFileSystem(
            skip_instance_cache=True, client_kwargs={"timeout": timeout, "trust_env": True}
        )

    def read(self, url: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of `url`, or less where it ends earlier, or one more where it lies.

        FileNotFoundError, one of FAILURES, or Unreachable where another attempt would not help.
        """
        return bytes(sync(self._fs.loop, self._range, url, start, end))

    async def _range(self, url: str, start: int, end: int) -> bytes:
        session = await self._fs.set_session()
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        # A signed URL is signed letter by letter.
        address = check_url(url)
        async with session.get(address, headers=headers) as answer:
            if answer.status == 404:
                raise FileNotFoundError
            if answer.status in DENIED:
                raise PermissionError(answer.status, DENIED[answer.status])
            if answer.status in _AGAIN:
                answer.raise_for_status()
            if answer.status != 206:
                raise Unreachable(
                    f"{without_query(url)}: answers {answer.status}, not with a range of bytes; use"
                    " a server that takes Range requests, or fetch the file and run that"
                )
            # However much it sends, no more than one byte too many is kept.
            data = bytearray()
            async for block in answer.content.iter_chunked(1 << 16):
                data += block
                if len(data) > end - start:
                    break
            return bytes(data)
