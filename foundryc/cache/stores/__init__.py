"""Where entries lie: a store by its URL."""

from __future__ import annotations

from foundryc.cache.stores.base import Store
from foundryrt.errors import UsageError, install
from foundryrt.remote.local import file_path, split_url


def open_store(url: str) -> Store:
    """A folder, s3://bucket/prefix, http(s)://… (read only) or oci://registry/repository.

    UsageError for another scheme, for one whose package is not installed, or where the URL holds
    a credential: those belong where each tool looks for its own (docs/ci.md).
    """
    if not url:
        raise UsageError("a cache needs a folder or a URL")
    parts = split_url(url)
    scheme = parts.scheme if "://" in url else "file"
    if scheme != "file" and ("@" in parts.netloc or parts.query or parts.fragment):
        # Without the URL itself: what it holds may be a secret.
        raise UsageError(f"a {scheme} cache URL may hold no user, password, query or fragment")
    path = file_path(url)
    try:
        return _open(scheme, url if path is None else str(path))
    except ModuleNotFoundError as error:
        raise UsageError(f"cache {url}: needs {error.name}; {install('cache')}") from error


def _open(scheme: str, url: str) -> Store:
    if scheme == "file":
        from foundryc.cache.stores.local import LocalStore

        return LocalStore(url)
    if scheme == "s3":
        from foundryc.cache.stores.s3 import S3Store

        return S3Store(url)
    if scheme in ("http", "https"):
        from foundryc.cache.stores.http import HttpStore

        return HttpStore(url)
    if scheme == "oci":
        from foundryc.cache.stores.oci import OciStore

        return OciStore(url)
    raise UsageError(f"cache {scheme}://: use a folder, s3, http, https or oci")
