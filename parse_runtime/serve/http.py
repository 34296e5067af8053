"""Reading requests, and answers where a route has failed."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from parse_runtime.serve.errors import ApiError

_MOST_BYTES = 8 << 20


async def read(request: Request) -> bytes:
    """The body; ApiError where it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise ApiError(413, f"the body is longer than {_MOST_BYTES} bytes")
    return bytes(body)


async def left(request: Request) -> None:
    """Returns once the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def failed(request: Request, error: Exception) -> Response:
    """What an error that no route has caught is answered with."""
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, error.detail, headers=dict(error.headers or {}))
    if not isinstance(error, ApiError):
        # What was raised is logged by the server.
        error = ApiError(500, f"the server failed: {type(error).__name__}")
    return error.response()
