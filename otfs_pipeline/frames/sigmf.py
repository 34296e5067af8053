"""SigMF metadata (specification 1.2): what a receiver needs of it, all checked.

A field that changes where or what the samples are is obeyed or refused by its name.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from foundryrt.errors import FoundryError
from foundryrt.printable import printable, reason

_NAMESPACE = "otfs"
_INDEX_LIMIT = 2**63 - 1
# No separators, so that the dataset lies beside its metadata.
_FILE_NAME = re.compile(r'[^/\\:*?"<>|]+')


@dataclass(frozen=True)
class Capture:
    """A run of samples that follow one another; `start` is absolute, `frequency` in Hz."""

    start: int
    header_bytes: int
    frequency: float | None


@dataclass(frozen=True)
class Metadata:
    """The checked metadata of a recording, called `label` in messages."""

    label: str
    datatype: str
    channels: int
    rates: tuple[float, ...]
    offset: int
    trailing_bytes: int
    dataset: str
    metadata_only: bool
    sha512: str
    captures: tuple[Capture, ...]
    seeds: dict[int, tuple[int, int]]
    settings: dict[str, Any]


def parse(text: bytes, label: str) -> Metadata:
    """FoundryError, which names the field, for what is no SigMF or cannot be received."""
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
        scopes = document["global"], document.get("captures", []), document.get("annotations", [])
        whole = _Scope(scopes[0], f"metadata {label}")
        captures = [_Scope(c, f"metadata {label}: capture {i}") for i, c in enumerate(scopes[1])]
        notes = [_Scope(n, f"metadata {label}: annotation {i}") for i, n in enumerate(scopes[2])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FoundryError(f"metadata {label} is no SigMF: {reason(error)}") from error
    _check_version(whole)
    _check_extensions(whole)
    channels = whole.index("core:num_channels", 1)
    if channels < 1:
        raise whole.refused("core:num_channels", "no SigMF: there is one at least")
    offset = whole.index("core:offset")
    rates = [
        r for scope in (whole, *captures) if (r := scope.number("core:sample_rate")) is not None
    ]
    if any(rate <= 0 for rate in rates):
        raise whole.refused("core:sample_rate", "a rate is positive")
    return Metadata(
        label=label,
        datatype=whole.text("core:datatype"),
        channels=channels,
        rates=tuple(rates),
        offset=offset,
        trailing_bytes=whole.index("core:trailing_bytes"),
        dataset=_dataset(whole),
        metadata_only=whole.flag("core:metadata_only"),
        sha512=_sha512(whole),
        captures=_captures(captures, offset),
        seeds=_payloads([note for note in notes if "otfs:seed" in note.fields]),
        settings=sent if isinstance(sent := whole.fields.get("otfs:settings"), dict) else {},
    )


class _Scope:
    """The fields of the global object, a capture or an annotation."""

    def __init__(self, fields: object, label: str) -> None:
        if not isinstance(fields, dict):
            raise TypeError(f"{label} is no object")
        self.fields, self.label = fields, label

    def refused(self, name: str, reason: str) -> FoundryError:
        value = printable(json.dumps(self.fields.get(name), ensure_ascii=False))[:80]
        return FoundryError(f"{self.label}: {name} {value}: {reason}")

    def index(self, name: str, default: int = 0) -> int:
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INDEX_LIMIT:
            raise self.refused(name, "no SigMF: it is an integer from 0 to 2^63-1")
        return value

    def number(self, name: str) -> float | None:
        value = self.fields.get(name)
        if value is None and name not in self.fields:
            return None
        try:
            if not isinstance(value, bool) and isinstance(value, (int, float)):
                number = float(value)
                if math.isfinite(number):
                    return number
        except OverflowError:
            pass
        raise self.refused(name, "no SigMF: it is a finite number")

    def text(self, name: str) -> str:
        value = self.fields.get(name, "")
        if not isinstance(value, str):
            raise self.refused(name, "no SigMF: it is a string")
        return value

    def flag(self, name: str) -> bool:
        value = self.fields.get(name, False)
        if not isinstance(value, bool):
            raise self.refused(name, "no SigMF: it is true or false")
        return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)} is given twice")
    return fields


def _check_version(whole: _Scope) -> None:
    version = whole.text("core:version")
    if version and not re.match(r"[01]\.\d", version):
        raise whole.refused("core:version", "recordings of SigMF 1.x can be read")


def _check_extensions(whole: _Scope) -> None:
    extensions = whole.fields.get("core:extensions", [])
    if not isinstance(extensions, list):
        raise whole.refused("core:extensions", "no SigMF: it is a list")
    for extension in extensions:
        if not isinstance(extension, dict) or not isinstance(extension.get("name"), str):
            raise whole.refused("core:extensions", "no SigMF: each is an object with a name")
        if extension.get("optional") is not True and extension["name"] != _NAMESPACE:
            name = extension["name"][:80]
            raise FoundryError(
                f"{whole.label}: core:extensions: {name!r} is not optional, and is not known here"
            )


def _dataset(whole: _Scope) -> str:
    name = whole.text("core:dataset")
    if name and (
        not (_FILE_NAME.fullmatch(name) and name.isprintable())
        or name in (".", "..")
        or len(name.encode()) > 255
    ):
        raise whole.refused("core:dataset", "it is the name of a file beside the metadata")
    return name


def _sha512(whole: _Scope) -> str:
    digest = whole.text("core:sha512")
    if digest and not re.fullmatch(r"[0-9a-fA-F]{128}", digest):
        raise whole.refused("core:sha512", "no SigMF: it is 128 hexadecimal digits")
    return digest.lower()


def _captures(scopes: list[_Scope], offset: int) -> tuple[Capture, ...]:
    captures: list[Capture] = []
    for scope in scopes:
        if "core:sample_start" not in scope.fields:
            raise scope.refused("core:sample_start", "no SigMF: every capture has one")
        start = scope.index("core:sample_start")
        if start < offset:
            raise scope.refused("core:sample_start", f"it lies before core:offset {offset}")
        if captures and start < captures[-1].start:
            raise scope.refused("core:sample_start", "captures are sorted by it")
        header = scope.index("core:header_bytes")
        captures.append(Capture(start, header, scope.number("core:frequency")))
    return tuple(captures) or (Capture(offset, 0, None),)


def _payloads(notes: list[_Scope]) -> dict[int, tuple[int, int]]:
    """Seed and index of the payload by the frame's start."""
    payloads: dict[int, tuple[int, int]] = {}
    for note in notes:
        for name in ("core:sample_start", "otfs:frame"):
            if name not in note.fields:
                raise note.refused(name, "a payload has one; remove the annotation's otfs:seed")
        start = note.index("core:sample_start")
        payload = note.index("otfs:seed"), note.index("otfs:frame")
        if payloads.setdefault(start, payload) != payload:
            raise note.refused("otfs:seed", f"another payload begins at sample {start} too")
    return payloads
