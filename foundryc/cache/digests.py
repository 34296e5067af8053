"""Digests of what a key depends on: files by their contents, packages by their sources."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from foundryc.cache.memo import remembered
from foundryrt.errors import UsageError

CHUNK = 64 << 20
_SOURCES = {".py", ".cpp", ".hpp", ".cu", ".cuh", ".json"}


def of_file(path: Path) -> str:
    """SHA-256 over the SHA-256 of each 64 MiB, so that all cores take part; UsageError.

    That of a large file is kept between processes.
    """
    try:
        real, identity = path.resolve(), _identity(path)
        return remembered(real, identity, lambda: _of_contents(real, *identity))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _identity(path: Path) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4096)
def _of_contents(path: Path, *identity: int) -> str:
    with open(path, "rb") as file, ThreadPoolExecutor(os.cpu_count()) as workers:
        size = os.fstat(file.fileno()).st_size

        def digest(start: int) -> bytes:
            return hashlib.sha256(os.pread(file.fileno(), CHUNK, start)).digest()

        whole = hashlib.sha256(size.to_bytes(8, "little"))
        for part in workers.map(digest, range(0, size, CHUNK)):
            whole.update(part)
    return whole.hexdigest()


@lru_cache(maxsize=64)
def of_code(packages: Sequence[str]) -> str:
    """SHA-256 over the sources of `packages`: a version number does not tell every change."""
    digest = hashlib.sha256()
    for package in sorted(set(packages)):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            root = Path(folder)
            for path in sorted(p for p in root.rglob("*") if p.suffix in _SOURCES):
                name = f"{package}/{path.relative_to(root).as_posix()}".encode()
                data = path.read_bytes()
                digest.update(len(name).to_bytes(8, "little") + name)
                digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
