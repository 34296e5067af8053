"""Recordings opened by their files: which samples they hold, and whether they fit the bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path

from foundryrt.console import note
from foundryrt.errors import FoundryError, UsageError
from foundryrt.printable import printable
from otfs_pipeline.frames.archive import is_archive, read_archive
from otfs_pipeline.frames.recording import Recording, Segment
from otfs_pipeline.frames.samples import DATATYPES, width
from otfs_pipeline.frames.sigmf import Capture, Metadata, parse
from otfs_pipeline.settings import Settings


def open_recording(
    path: str, metadata: str, datatype: str, settings: Settings, raw: bool = False
) -> Recording:
    """A recording by its data file, .sigmf-meta or .sigmf archive.

    `datatype` overrides or replaces that of the metadata. With `raw` it holds a waveform at any
    rate, else frames. UsageError or FoundryError where a file is missing or fits neither SigMF nor
    `settings`.
    """
    data = Path(path)
    if is_archive(data):
        return _open_archive(data, metadata, datatype, settings, raw)
    if data.suffix == ".sigmf-meta":
        metadata = metadata or path
        data = data.with_suffix(".sigmf-data")
    beside = data.with_suffix(".sigmf-meta")
    meta = None
    if metadata or beside.is_file():
        meta_path = Path(metadata) if metadata else beside
        meta = _read_metadata(meta_path)
        if Path(path).suffix == ".sigmf-meta" and meta.dataset:
            data = meta_path.with_name(meta.dataset)
        elif meta.dataset and meta.dataset != data.name:
            raise UsageError(
                f"metadata {meta_path}: core:dataset is {printable(meta.dataset)}, not {data.name}"
            )
    if not data.is_file():
        if meta and meta.metadata_only:
            raise UsageError(f"metadata {meta.label}: core:metadata_only: there are no samples")
        what = "is no regular file" if data.exists() else "does not exist"
        raise UsageError(f"recording {data} {what}; give a file of raw samples")
    return _recording(data, (0, data.stat().st_size), meta, datatype, settings, raw)


def _open_archive(
    path: Path, metadata: str, datatype: str, settings: Settings, raw: bool
) -> Recording:
    if metadata:
        raise UsageError("--metadata: an archive has its own; extract it first")
    if not path.is_file():
        raise UsageError(f"recording {path} does not exist or is no regular file")
    archive = read_archive(path)
    meta = parse(archive.metadata, f"{path}:{printable(archive.meta_name)}")
    return _recording(path, archive.dataset(meta.dataset), meta, datatype, settings, raw)


def _recording(
    path: Path,
    place: tuple[int, int],
    meta: Metadata | None,
    datatype: str,
    settings: Settings,
    raw: bool,
) -> Recording:
    datatype = datatype or (meta.datatype if meta else "")
    if datatype not in DATATYPES:
        raise UsageError(f"recording {path}: datatype {_unknown(datatype)}")
    if meta is None:
        return Recording(path, datatype, (Segment(0, *place),), channels=settings.antennas)
    _check_channels(meta, settings)
    rate = _rate(meta, settings, raw)
    _check_settings(meta, settings)
    if meta.sha512 and _sha512(path, place) != meta.sha512:
        raise FoundryError(
            f"recording {path}: core:sha512 of metadata {meta.label} is of other data; "
            "get the file again"
        )
    each = meta.channels * width(datatype)
    segments = _segments(meta, place, each)
    _tell_shorter(path, meta, segments[-1], each)
    return Recording(path, datatype, segments, meta.seeds, rate, meta.channels)


def _unknown(datatype: str) -> str:
    if not datatype:
        return "'unknown'; give --datatype cf32_le or ci16_le, or the one it has, or metadata"
    shown = datatype[:40]
    if datatype.startswith("r"):
        return f"{shown!r} has real samples, and the receiver needs complex ones"
    if f"{datatype}_le" in DATATYPES:
        return f"{shown!r} names no byte order; give --datatype {shown}_le or {shown}_be"
    return f"{shown!r}; use one of {', '.join(DATATYPES)}"


def _segments(meta: Metadata, place: tuple[int, int], sample: int) -> tuple[Segment, ...]:
    """Where each capture's samples are; FoundryError where the file is too short for them."""
    at, end = place[0], place[0] + place[1] - meta.trailing_bytes
    index, segments = meta.offset, []
    ends: list[Capture | None] = [*meta.captures[1:], None]
    for capture, after in zip(meta.captures, ends, strict=True):
        at += (capture.start - index) * sample + capture.header_bytes
        index = capture.start
        last = end if after is None else at + (after.start - capture.start) * sample
        if at > end or last > end:
            raise FoundryError(
                f"metadata {meta.label}: capture at core:sample_start {capture.start}, with "
                "core:header_bytes and core:trailing_bytes, ends after the dataset"
            )
        segments.append(Segment(capture.start, at, last - at, capture.frequency))
    return tuple(segments)


def _tell_shorter(path: Path, meta: Metadata, last: Segment, each: int) -> None:
    """Say where a data file is cut short, which is received as far as it goes."""
    end = last.start + last.samples(each)
    gone = sum(start >= end for start in meta.seeds)
    if gone:
        note(
            f"recording {path}: {gone} of {len(meta.seeds)} frames that metadata {meta.label} "
            f"names begin after its last sample, {end - 1}: the file is cut short, or --datatype "
            "is wrong"
        )
    elif last.bytes % each:
        note(f"recording {path}: it ends {last.bytes % each} bytes into a sample of {each}")


def _sha512(path: Path, place: tuple[int, int]) -> str:
    digest, rest = hashlib.sha512(), place[1]
    try:
        with path.open("rb") as file:
            file.seek(place[0])
            while rest and (data := file.read(min(rest, 1 << 20))):
                digest.update(data)
                rest -= len(data)
    except OSError as error:
        raise FoundryError(f"recording {path}: {error.strerror}") from error
    return digest.hexdigest()


def _read_metadata(path: Path) -> Metadata:
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"metadata {path}: {error.strerror}; give --metadata FILE") from error


def _check_channels(meta: Metadata, settings: Settings) -> None:
    """FoundryError unless there is a channel for each antenna."""
    if meta.channels != settings.antennas:
        raise FoundryError(
            f"metadata {meta.label}: core:num_channels {meta.channels}: the bundle receives "
            f"{settings.antennas}; capture one with --antennas {meta.channels}, or split the "
            "channels"
        )


def _check_settings(meta: Metadata, settings: Settings) -> None:
    """FoundryError unless the recording is of the bundle's waveform."""
    waveform = ("grid", "nu_p", "modulation", "guard", "pilot", "pilot_db", "delay_spread",
                "pulse", "rolloff", "doppler_rolloff", "code_rate", "waveform")  # fmt: skip
    # What earlier versions sent has no name for it.
    given = meta.settings and {"pilot": "point", "waveform": "zak"} | meta.settings
    for name in waveform:
        if name in given and given[name] != getattr(settings, name):
            sent = printable(given[name])[:80]
            raise FoundryError(
                f"metadata {meta.label}: sent with {name} {sent}, and the bundle was captured "
                f"with {getattr(settings, name)}; capture one with the recording's settings"
            )


def _rate(meta: Metadata, settings: Settings, raw: bool) -> float:
    """Samples a second, 0 where that is not said; FoundryError for one that cannot be received."""
    for rate in meta.rates:
        if not raw and abs(rate / settings.bandwidth - 1) > 1e-6:
            raise FoundryError(
                f"metadata {meta.label}: core:sample_rate: {rate:g} samples a second, and the "
                f"bundle receives {settings.bandwidth:g}; capture a bundle of that bandwidth, or "
                "give --raw for a waveform as it is on the air"
            )
        if abs(rate / meta.rates[0] - 1) > 1e-6:
            raise FoundryError(
                f"metadata {meta.label}: core:sample_rate: captures of {meta.rates[0]:g} and of "
                f"{rate:g} samples a second; split them"
            )
    return meta.rates[0] if meta.rates else 0.0
