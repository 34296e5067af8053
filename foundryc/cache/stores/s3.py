"""S3 as a store. A claim is an object made by a conditional write, kept alive by its owner."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from botocore.exceptions import ClientError

from foundryc.cache.entry import admit
from foundryc.cache.stores.base import SUFFIX, Entry, check_key, key_in
from foundryc.cache.transfer import download
from foundryrt.errors import UsageError
from foundryrt.remote.attempts import attempt, setting
from foundryrt.remote.s3 import FAILURES, S3Bucket

LEASE_SECONDS = max(1.0, setting("FOUNDRY_CACHE_LEASE", "30", float))


class S3Store:
    """`s3://bucket/prefix`; credentials and endpoint as every AWS tool finds them."""

    writable = True

    def __init__(self, url: str) -> None:
        bucket, _, self._prefix = url.removeprefix("s3://").rstrip("/").partition("/")
        if not bucket:
            raise UsageError(f"cache {url}: write s3://BUCKET or s3://BUCKET/PREFIX")
        self.url = url.rstrip("/")
        self._s3 = S3Bucket(bucket)
        self._seen: dict[str, tuple[str, float]] = {}

    def _name(self, key: str, suffix: str = SUFFIX) -> str:
        return "/".join(filter(None, (self._prefix, check_key(key) + suffix)))

    def _try(self, method: str, **arguments: Any) -> Any:
        return attempt(f"cache {self.url}", lambda: self._s3.call(method, **arguments), FAILURES)

    def fetch(self, key: str, path: Path) -> bool:
        """As in Store; marks the entry as used where that is allowed."""
        name = self._name(key)
        try:
            download(f"cache {self.url}", partial(self._s3.read, name), path, FAILURES)
        except FileNotFoundError:
            return False
        admit(path, key)
        with contextlib.suppress(*FAILURES):
            self._s3.call("put_object", Key=self._name(key, ".used"), Body=b"")
        return True

    def put(self, key: str, path: Path) -> None:
        """As in Store: an upload in parts becomes an object only when it is complete."""
        target = f"{self._s3.bucket}/{self._name(key)}"
        attempt(f"cache {self.url}", lambda: self._s3.fs.put_file(str(path), target), FAILURES)

    def claim(self, key: str) -> AbstractContextManager[object] | None:
        """As in Store. A claim that has not been renewed for LEASE_SECONDS may be taken over.

        No clocks are compared: a waiter measures how long the object stays as it is.
        """
        name = self._name(key, ".claim")
        etag = self._write(name, IfNoneMatch="*")
        if etag is None:
            try:
                found = str(self._s3.call("head_object", Key=name)["ETag"])
            except FileNotFoundError:
                return None  # Given back just now; the next call may get it.
            known, since = self._seen.get(key, ("", 0.0))
            if found != known:
                self._seen[key] = (found, time.monotonic())
                return None
            if time.monotonic() - since < LEASE_SECONDS:
                return None
            etag = self._write(name, IfMatch=found)
        return None if etag is None else _Lease(self, name, etag)

    def _write(self, name: str, **condition: str) -> str | None:
        """The new ETag; None where the condition did not hold."""

        def put() -> str | None:
            try:
                body = secrets.token_bytes(16)
                return str(self._s3.call("put_object", Key=name, Body=body, **condition)["ETag"])
            except FileNotFoundError:
                return None
            except (FileExistsError, ClientError, OSError) as error:
                if _precondition_failed(error):
                    return None
                raise

        return attempt(f"cache {self.url}", put, FAILURES)

    def entries(self) -> list[Entry]:
        """As in Store."""
        found: dict[str, Entry] = {}
        used: dict[str, float] = {}
        token: dict[str, str] = {}
        while True:
            prefix = f"{self._prefix}/" if self._prefix else ""
            page = self._try("list_objects_v2", Prefix=prefix, **token)
            for item in page.get("Contents", ()):
                name = item["Key"].removeprefix(prefix)
                when = item["LastModified"].timestamp()
                if key := key_in(name):
                    found[key] = Entry(key, item["Size"], when)
                elif name.endswith(".used") and (key := key_in(name[:-5] + SUFFIX)):
                    used[key] = when
            if not page.get("IsTruncated"):
                break
            token = {"ContinuationToken": page["NextContinuationToken"]}
        return [Entry(e.key, e.size, max(e.used, used.get(e.key, 0))) for e in found.values()]

    def evict(self, key: str) -> None:
        """As in Store."""
        for suffix in (SUFFIX, ".used"):
            self._try("delete_object", Key=self._name(key, suffix))


class _Lease:
    """A claim that a thread renews until it is left."""

    def __init__(self, store: S3Store, name: str, etag: str) -> None:
        self._store, self._name, self._etag = store, name, etag
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> _Lease:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._etag:
            # Where this fails, the claim ends by itself.
            with contextlib.suppress(*FAILURES):
                self._store._s3.call("delete_object", Key=self._name)

    def _renew(self) -> None:
        while not self._over.wait(LEASE_SECONDS / 3):
            with contextlib.suppress(Exception):
                renewed = self._store._write(self._name, IfMatch=self._etag)
                self._etag = renewed or ""
                if renewed is None:
                    return  # Taken over: it is not ours to end.


def _precondition_failed(error: BaseException | None) -> bool:
    """Whether S3 answered 412 or 409; s3fs wraps the answer in an OSError."""
    while error is not None:
        if isinstance(error, FileExistsError):
            return True
        if isinstance(error, ClientError):
            return str(error.response.get("Error", {}).get("Code")) in (
                "PreconditionFailed", "ConditionalRequestConflict", "412", "409",
            )  # fmt: skip
        error = error.__cause__
    return False
