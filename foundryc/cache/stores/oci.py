"""An OCI registry as a store: one tag a key, whose manifest names the bundle as its one layer."""

from __future__ import annotations

import json
import re
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import oras.auth.token
import oras.client
import oras.container
import oras.oci
import oras.utils
import requests
from oras.provider import temporary_empty_config
from requests.adapters import HTTPAdapter

from foundryc.cache.entry import admit
from foundryc.cache.errors import Poisoned, Unreachable
from foundryc.cache.stores.base import SUFFIX, Entry, check_key
from foundryc.cache.stores.machine import claim_here
from foundryc.cache.transfer import download
from foundryrt.errors import UsageError
from foundryrt.remote.attempts import LIMITS, attempt
from foundryrt.remote.http import DENIED

MEDIA_TYPE = "application/vnd.foundry.bundle.v1"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_FAILURES = (requests.RequestException, OSError)
# oras does not check the form of what a registry answers.
_ODD = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


class OciStore:
    """`oci://registry/repository`; credentials from `docker login`. Plain http on loopback only."""

    writable = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._repository = self.url.removeprefix("oci://")
        host, _, name = self._repository.partition("/")
        if not host or not re.fullmatch(r"[a-z0-9]+([._/-]+[a-z0-9]+)*", name):
            raise UsageError(f"cache {url}: write oci://REGISTRY/REPOSITORY")
        insecure = bool(_LOOPBACK.fullmatch(host))
        self._client: Any = _Client(hostname=host, insecure=insecure)
        for scheme in ("http://", "https://"):
            self._client.session.mount(scheme, _WithTimeout())
        self._client.auth = _Auth()
        self._client.auth.session = self._client.session
        self._client.auth.prefix = self._client.prefix
        self._client.auth._tls_verify = True

    def _container(self, key: str) -> Any:
        container = oras.container.Container(f"{self._repository}:{check_key(key)}")
        self._client.auth.load_configs(container)
        return container

    def _get(self, path: str, headers: dict[str, str], limit: int) -> bytes:
        """At most one byte more than `limit`; FileNotFoundError for 404."""
        url = f"{self._client.prefix}://{path}"
        deadline = time.monotonic() + LIMITS.seconds
        with self._client.do_request(url, headers=headers, stream=True) as answer:
            if answer.status_code == 404:
                raise FileNotFoundError(path)
            if answer.status_code >= 500 or answer.status_code == 429:
                answer.raise_for_status()
            if answer.status_code not in (200, 206):
                raise Unreachable(f"cache {self.url}: answers {answer.status_code}")
            if "Range" in headers and answer.status_code != 206:
                raise Unreachable(f"cache {self.url}: does not know ranges")
            data = bytearray()
            for block in answer.iter_content(1 << 16):
                data += block
                if len(data) > limit:
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError
            return bytes(data)

    def _layer(self, key: str) -> tuple[str, int]:
        """Digest and size of the bundle; FileNotFoundError, Poisoned."""
        path = self._container(key).manifest_url(key)
        what = f"cache {self.url}"
        data = attempt(what, lambda: self._get(path, {"Accept": _MANIFEST}, 1 << 20), _FAILURES)
        try:
            (layer,) = json.loads(data)["layers"]
            kind, digest, size = layer["mediaType"], str(layer["digest"]), int(layer["size"])
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            raise Poisoned(f"{what}: the manifest of {key[:16]}… names no bundle") from None
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or kind != MEDIA_TYPE:
            raise Poisoned(f"{what}: the manifest of {key[:16]}… names no bundle")
        return digest, size

    def fetch(self, key: str, path: Path) -> bool:
        """As in Store."""
        try:
            blob = self._container(key).get_blob_url(self._layer(key)[0])

            def read(start: int, end: int) -> bytes:
                return self._get(blob, {"Range": f"bytes={start}-{end - 1}"}, end - start)

            download(f"cache {self.url}", read, path, _FAILURES)
        except FileNotFoundError:
            return False
        admit(path, key)
        return True

    def put(self, key: str, path: Path) -> None:
        """As in Store: the tag appears with the manifest, after the bundle is there."""
        container = self._container(key)
        layer = oras.oci.NewLayer(str(path), MEDIA_TYPE, is_dir=False)
        layer["annotations"] = {"org.opencontainers.image.title": key + SUFFIX}
        manifest = oras.oci.NewManifest()
        manifest["layers"] = [layer]
        manifest["config"] = oras.oci.ManifestConfig()[0]

        def upload() -> None:
            with temporary_empty_config() as empty:
                self._upload(path, container, layer)
                self._upload(Path(empty), container, manifest["config"])
            self._client.upload_manifest(manifest, container).raise_for_status()

        attempt(f"cache {self.url}", upload, (*_FAILURES, *_ODD))

    def _upload(self, path: Path, container: Any, layer: dict[str, Any]) -> None:
        """A blob, sent as it is read, unless the registry has it."""
        if self._client.blob_exists(layer, container):
            return
        url = f"{self._client.prefix}://{container.upload_blob_url()}"
        answer = self._client.do_request(url, "POST")
        answer.raise_for_status()
        place = urljoin(url, answer.headers["Location"])
        headers = {"Content-Type": "application/octet-stream"}
        with open(path, "rb") as file:
            target = oras.utils.append_url_params(place, {"digest": layer["digest"]})
            self._client.do_request(target, "PUT", file, headers).raise_for_status()

    def claim(self, key: str) -> AbstractContextManager[object] | None:
        """As in Store, among the processes of this machine: a registry has no conditional write."""
        return claim_here(self.url, key)

    def entries(self) -> list[Entry]:
        """As in Store; a registry does not tell when an entry was used."""
        what = f"cache {self.url}"
        try:
            tags = attempt(
                what, lambda: self._client.get_tags(self._repository), (*_FAILURES, *_ODD)
            )
        except FileNotFoundError:
            return []
        keys = [tag for tag in map(str, tags) if re.fullmatch(r"[0-9a-f]{64}", tag)]
        return [Entry(key, self._layer(key)[1], 0.0) for key in keys]

    def evict(self, key: str) -> None:
        """As in Store, where the registry lets tags be deleted."""
        container = self._container(key)
        try:
            self._layer(key)
        except FileNotFoundError:
            return
        except Poisoned:
            pass  # Whatever has the tag goes.

        def delete() -> None:
            self._client.delete_tag(container, key)

        attempt(f"cache {self.url}", delete, (*_FAILURES, *_ODD))


class _Client(oras.client.OrasClient):  # type: ignore[misc]
    """Requests with the credentials that the registry asks for; PermissionError without them.

    oras itself knows tokens alone, tries for minutes, and gives a token for reading to a write.
    """

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
    ) -> Any:
        # Another host, such as one that stores blobs, is given nothing.
        ours = url.startswith(f"{self.prefix}://{self.hostname}/")
        sent = self.auth.known if ours else {}
        for last in (False, True):
            if hasattr(data, "seek"):
                data.seek(0)
            answer = self.session.request(
                method, url, data=data, json=json, headers={**(headers or {}), **sent},
                stream=stream, verify=self._tls_verify,
            )  # fmt: skip
            if answer.status_code not in DENIED:
                return answer
            answer.close()
            sent = {} if last or not ours else self.auth.answer(answer)
            if not sent:
                break
        raise PermissionError(answer.status_code, DENIED[answer.status_code])


class _Auth(oras.auth.token.TokenAuth):  # type: ignore[misc]
    """Basic or Bearer, as a registry's challenge says; what answered it is sent from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, str] = {}
        """The header for further requests."""

    def answer(self, refusal: Any) -> dict[str, str]:
        """The header that answers a challenge; empty where there is nothing to answer with."""
        challenge = refusal.headers.get("Www-Authenticate", "")
        scheme = challenge.partition(" ")[0].lower()
        basic = getattr(self, "_basic_auth", None)
        if scheme == "basic" and basic:
            self.known = {"Authorization": f"Basic {basic}"}
            return self.known
        if scheme == "bearer":
            headers, changed = self.authenticate_request(refusal, {}, refresh=True)
            self.known = headers if changed else {}
            return self.known
        return {}


class _WithTimeout(HTTPAdapter):
    """oras sets no timeouts; a silent registry must not hold a process for ever."""

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
        options["timeout"] = options.get("timeout") or (10, min(30.0, LIMITS.seconds))
        return super().send(request, **options)
