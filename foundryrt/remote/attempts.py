"""Another attempt where a network fails, after growing pauses, and limits for all of them."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from foundryrt.errors import Denied, Unreachable, UsageError

T = TypeVar("T")
N = TypeVar("N", int, float)
Read = Callable[[int, int], bytes]
"""Bytes [start, end) of a file, or less where it ends earlier; at most one byte more than asked."""


def setting(name: str, default: str, kind: Callable[[str], N]) -> N:
    """The variable `name` of the environment as a number, 0 or more; UsageError."""
    value = os.environ.get(name) or default
    try:
        number = kind(value)
    except ValueError:
        number = kind("-1")
    if not 0 <= number < float("inf"):
        raise UsageError(f"{name}={value}: need a number, 0 or more")
    return number


@dataclass(frozen=True)
class Limits:
    """How long a server is waited for. A range of `chunk` bytes must come within `seconds`."""

    attempts: int = setting("FOUNDRY_CACHE_ATTEMPTS", "5", int)
    backoff: float = setting("FOUNDRY_CACHE_BACKOFF", "0.5", float)
    seconds: float = setting("FOUNDRY_CACHE_TIMEOUT", "60", float)
    chunk: int = 8 << 20


LIMITS = Limits()


def attempt(what: str, call: Callable[[], T], failures: tuple[type[BaseException], ...]) -> T:
    """`call`, again after growing pauses; Unreachable after the last attempt.

    PermissionError, from `call`, is Denied at once: its text says what the server answered.
    """
    for count in range(LIMITS.attempts):
        try:
            return call()
        except FileNotFoundError:
            raise  # No failure: the file is not there.
        except PermissionError as error:
            said = error.strerror or "access is denied"
            raise Denied(f"{what}: {said}; check the credentials (docs/ci.md)") from None
        except failures as error:
            if count + 1 == LIMITS.attempts:
                raise Unreachable(f"{what}: {_said(error)} in {LIMITS.attempts} attempts") from None
            # Jitter, so that waiting processes do not all come back at once.
            time.sleep(LIMITS.backoff * 2**count * random.uniform(0.5, 1))
    raise Unreachable(f"{what}: no attempt allowed")


def _said(error: BaseException) -> str:
    """What happened. A library's own text may hold headers or signed addresses."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    if "DNS" in type(error).__name__ or isinstance(error, socket.gaierror):
        return "no machine of this name is known"
    if isinstance(status := getattr(error, "status", None), int):
        return f"answers {status}"
    return type(error).__name__
