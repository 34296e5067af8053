"""http(s) as a store that is only read: `<url>/<key>.fdy`, any server that knows ranges."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from foundryc.cache.entry import admit
from foundryc.cache.errors import NotWritable
from foundryc.cache.stores.base import SUFFIX, Entry, check_key
from foundryc.cache.stores.machine import claim_here
from foundryc.cache.transfer import download
from foundryrt.remote.http import FAILURES, HttpRanges, check_url


class HttpStore:
    """Credentials come from ~/.netrc, proxies from the environment, as aiohttp reads them."""

    writable = False

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self._ranges = HttpRanges()

    def fetch(self, key: str, path: Path) -> bool:
        """As in Store."""
        url = f"{self.url}/{check_key(key)}{SUFFIX}"

        try:
            download(f"cache {self.url}", partial(self._ranges.read, url), path, FAILURES)
        except FileNotFoundError:
            return False
        admit(path, key)
        return True

    def put(self, key: str, path: Path) -> None:
        """Never: NotWritable."""
        raise NotWritable(f"cache {self.url}: http stores are only read")

    def claim(self, key: str) -> AbstractContextManager[object] | None:
        """As in Store, among the processes of this machine."""
        return claim_here(self.url, key)

    def entries(self) -> list[Entry]:
        """Never: a web server has no listing. NotWritable."""
        raise NotWritable(f"cache {self.url}: http stores cannot be listed")

    def evict(self, key: str) -> None:
        """Never: NotWritable."""
        raise NotWritable(f"cache {self.url}: http stores are only read")
