"""Where entries lie: a place by its URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from foundryc.cache.places.base import Place
from foundryrt.errors import UsageError, install


def open_place(url: str) -> Place:
    """A folder, s3://bucket/prefix, http(s)://… (read only) or oci://registry/repository.

    UsageError for another scheme, for one whose package is not installed, or where the URL holds
    a credential: those belong where each tool looks for its own (docs/ci.md).
    """
    if not url:
        raise UsageError("a cache needs a folder or a URL")
    parts = urlsplit(url)
    scheme = parts.scheme if "://" in url else "file"
    if scheme != "file" and ("@" in parts.netloc or parts.query or parts.fragment):
        # Without the URL itself: what it holds may be a secret.
        raise UsageError(f"a {scheme} cache URL may hold no user, password, query or fragment")
    try:
        return _place(scheme, parts.path if scheme == "file" and "://" in url else url)
    except ModuleNotFoundError as error:
        raise UsageError(f"cache {url}: needs {error.name}; {install('cache')}") from error


def _place(scheme: str, url: str) -> Place:
    if scheme == "file":
        from foundryc.cache.places.local import LocalPlace

        return LocalPlace(url)
    if scheme == "s3":
        from foundryc.cache.places.s3 import S3Place

        return S3Place(url)
    if scheme in ("http", "https"):
        from foundryc.cache.places.http import HttpPlace

        return HttpPlace(url)
    if scheme == "oci":
        from foundryc.cache.places.oci import OciPlace

        return OciPlace(url)
    raise UsageError(f"cache {scheme}://: use a folder, s3, http, https or oci")
