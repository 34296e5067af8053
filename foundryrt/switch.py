"""Asking a server of this user's, or of a token that is known, to serve another bundle."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from foundryrt.admin import chosen_token, find_token
from foundryrt.console import note
from foundryrt.errors import Denied, FoundryError, Unreachable, UsageError
from foundryrt.printable import size
from foundryrt.remote.bundle import is_url


class _Here(urllib.request.HTTPRedirectHandler):
    """The token is for the server that was named, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def switch(
    bundle: str,
    url: str,
    tp: int | None = None,
    devices: Sequence[int] | None = None,
    stop_first: bool = False,
) -> dict[str, Any]:
    """Have the server at `url` serve `bundle`, and wait until it does; what it reports.

    `tp` ranks run it, on the GPUs `devices`. `stop_first` where there is no room for both bundles.
    A path is one of the server's machine. Unreachable where no server answers there, Denied where
    the token is another's, FoundryError says why the server did not switch.
    """
    try:
        parts = urlsplit(url)
        usual = {"http": 80, "https": 443}[parts.scheme]
        port = usual if parts.port is None else parts.port
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError
    except (KeyError, ValueError):
        raise UsageError(f"--url {url}: write http://HOST:PORT") from None
    here = _is_here(parts.hostname)
    token = find_token(port) if here else chosen_token()
    note(f"{url}: the server opens {bundle}")
    body: dict[str, Any] = {"bundle": bundle if is_url(bundle) else os.path.abspath(bundle)}
    body |= {} if tp is None else {"tp": tp}
    body |= {} if devices is None else {"devices": list(devices)}
    body |= {"stop_first": True} if stop_first else {}
    request = urllib.request.Request(
        f"{parts.scheme}://{parts.netloc}/admin/switch",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    handlers = [_Here(), *([urllib.request.ProxyHandler({})] if here else [])]
    try:
        with urllib.request.build_opener(*handlers).open(request) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        raise _refusal(url, error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"{url}: no server answers ({reason}); name it by --url") from None


def described(report: dict[str, Any]) -> str:
    """A report for people, in lines."""
    if report["continued"]:
        how = f"the answers under way went on with it after {report['swap_ms']:.2f} ms"
    else:
        how = (
            f"the answers under way ended with the bundle before in {report['drain_seconds']:.1f} s"
        )
    if report["stopped_first"]:
        how += f", then requests waited for {report['swap_ms'] / 1e3:.1f} s"
    added = report["added_bytes"]
    ranks = f" {report['ranks']} ranks," if report["ranks"] > 1 else ""
    memory = "" if added is None else f"; {size(added)} of device memory were added"
    return (
        f"{report['bundle']} is served: {report['name']}, {report['graphs']} graphs,"
        f"{ranks} opened in {report['open_seconds']:.2f} s, all graphs ready after"
        f" {report['ready_seconds']:.2f} s; {how}{memory}\n"
    )


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(url: str, error: urllib.error.HTTPError) -> FoundryError:
    try:
        message = str(json.load(error)["error"]["message"])
    except (OSError, ValueError, LookupError, TypeError):
        message = f"answers {error.code}"
    if error.code in (401, 403):
        return Denied(f"{url}: {message}")
    if error.code == 404:
        message = "has no /admin/switch: it is no server of foundryrt serve"
    return FoundryError(f"{url}: {message}")
