"""Ranges of objects in S3; credentials and endpoint as every AWS tool finds them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from fsspec.asyn import sync
from s3fs import S3FileSystem

from foundryrt.errors import UsageError
from foundryrt.remote import attempts

FAILURES = (BotoCoreError, ClientError, OSError)


@contextmanager
def _refusals(bucket: str) -> Iterator[None]:
    """What no further attempt would help, as UsageError or PermissionError."""
    try:
        yield
    except ParamValidationError:
        raise UsageError(f"s3://{bucket}: no name that a bucket can have") from None
    except (NoCredentialsError, PartialCredentialsError):
        raise PermissionError(errno.EACCES, "no credentials for S3 are found") from None


class S3Bucket:
    """Calls to one bucket."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        config = {"connect_timeout": 10, "read_timeout": 20, "retries": {"max_attempts": 1}}
        self.fs: Any = S3FileSystem(skip_instance_cache=True, config_kwargs=config)
        self.fs.retries = 1

    def call(self, method: str, **arguments: Any) -> Any:
        """One call of S3's API, such as `head_object`."""
        with _refusals(self.bucket):
            return sync(
                self.fs.loop, self.fs._call_s3, method, Bucket=self.bucket, **arguments,
                timeout=attempts.LIMITS.seconds,
            )  # fmt: skip

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of an object, or less where it ends earlier; at most one byte more.

        FileNotFoundError, or one of FAILURES.
        """
        with _refusals(self.bucket):
            return bytes(
                sync(self.fs.loop, self._range, name, start, end, timeout=attempts.LIMITS.seconds)
            )

    async def _range(self, name: str, start: int, end: int) -> bytes:
        answer = await self.fs._call_s3(
            "get_object", Bucket=self.bucket, Key=name, Range=f"bytes={start}-{end - 1}"
        )
        data = bytearray()
        async with answer["Body"] as body:
            # However much it sends, no more than one byte too many is kept.
            while len(data) <= end - start:
                block = await body.read(end - start + 1 - len(data))
                if not block:
                    break
                data += block
        return bytes(data)
