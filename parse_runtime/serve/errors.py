"""Errors in the shape of OpenAI's API."""

from __future__ import annotations

import logging
import re

import msgspec
from starlette.responses import Response

from foundryrt.errors import FoundryError, RankLost, UsageError
from parse_runtime.engine.engine import Overloaded, Stopped
from parse_runtime.engine.request import TooLong

_LOG = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer with a status that is not 200."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the answer."""
        kinds = {429: "rate_limit_error"}
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = kinds.get(self.status, default)
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        return reply(self.body(), self.status, self.headers)


def report(log: logging.Logger, what: str, error: Exception) -> None:
    """Log what failed; of an error that is not ours, where it was raised, too."""
    log.error("%s: %s", what, error, exc_info=None if isinstance(error, FoundryError) else error)


def reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def translated(error: Exception, retry_seconds: int = 1) -> ApiError:
    """What the API says of an error of the engine or of a request's settings."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded):
        return ApiError(429, str(error), None, "overloaded", {"Retry-After": str(retry_seconds)})
    if isinstance(error, Stopped):
        return ApiError(503, str(error), None, "stopped")
    if isinstance(error, RankLost):  # of which the command tells
        return ApiError(503, str(error), None, "rank_lost")
    if isinstance(error, msgspec.ValidationError):
        place = re.search(r"`\$\.([\w.]+)", str(error)) or re.search("field `(.*?)`", str(error))
        return ApiError(400, str(error), place[1] if place else None)
    if isinstance(error, UsageError | msgspec.DecodeError):
        code = "context_length_exceeded" if isinstance(error, TooLong) else None
        return ApiError(400, str(error), None, code)
    report(_LOG, "a request failed", error)
    return ApiError(500, str(error))
