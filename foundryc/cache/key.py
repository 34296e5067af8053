"""The content key of a bundle: SHA-256 over everything that determines it.

A part is a name and a text. Times, folders and host names are no parts, so a key is the same
wherever the same things are found. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from foundryc.cache.digests import of_code, of_file
from foundryc.home import without_home
from foundryc.installed import version
from foundryc.workload import CaptureWorkload, WithInputs
from foundryrt.bundle.schema import FORMAT_VERSION
from foundryrt.errors import UsageError
from foundryrt.workload import FILE_PREFIX

Parts = dict[str, str]
# 1: 2026-11-24, first scheme. Part of every key: a changed scheme never meets older entries.
SCHEME = "1"


def key_of(parts: Mapping[str, str]) -> str:
    """The key of these parts, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(parts)).hexdigest()


def canonical(parts: Mapping[str, str]) -> bytes:
    """The one way of writing these parts down."""
    return json.dumps(dict(parts), sort_keys=True, separators=(",", ":")).encode("ascii")


def gather(
    name: str,
    module: CaptureWorkload,
    settings: Any,
    environment: Mapping[str, str],
    *,
    target: str,
    embed_weights: bool = False,
) -> Parts:
    """The parts of what workload `name`, found as `module`, would capture with `settings`.

    `environment` has the versions and the machine (`environment.py`). UsageError where a file
    that a setting names is missing, or the workload is a file by itself.
    """
    package = module.__name__.partition(".")[0]
    if package.startswith(FILE_PREFIX):
        raise UsageError(
            f"workload {name!r} is a file by itself: what it imports cannot be told, so it has no"
            " key; capture it without a cache, or name it as package.module"
        )
    inputs = module.inputs(settings) if isinstance(module, WithInputs) else {}
    parts = {
        "scheme": SCHEME,
        "format": str(FORMAT_VERSION),
        "target": target,
        "workload": name,
        "embed-weights": json.dumps(embed_weights),
        "code": of_code(("foundryc", "foundryrt", package, *getattr(module, "PACKAGES", ()))),
        **{f"version.{used}": version(used) for used in getattr(module, "LIBRARIES", ())},
        **environment,
    }
    for setting, value in dataclasses.asdict(settings).items():
        if setting not in inputs:
            parts[f"setting.{setting}"] = json.dumps(_without_name(value))
    for setting, files in inputs.items():
        for path in files:
            # A file's own name counts: weight recipes find files by it. Its folder does not.
            part = f"input.{setting}.{path.name}"
            if part in parts:
                raise UsageError(f"--{setting}: two files are named {path.name}")
            parts[part] = of_file(path)
    return parts


def _without_name(value: object) -> object:
    """A setting, or the digest of one that says whose home folder it is in: bundles keep parts."""
    if not isinstance(value, str) or without_home(value) == value:
        return value
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Parts that differ, as (in a, in b); empty text for a part that one does not have."""
    names = sorted(set(a) | set(b))
    return {
        name: (a.get(name, ""), b.get(name, "")) for name in names if a.get(name) != b.get(name)
    }
