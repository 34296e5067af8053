"""Recordings of raw samples with SigMF metadata, read frame by frame and written."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.atomic import AtomicFile
from foundryrt.errors import FoundryError, UsageError
from foundryrt.printable import printable
from otfs_pipeline.frames.archive import is_archive, read_archive
from otfs_pipeline.frames.intake import undecoded
from otfs_pipeline.frames.samples import DATATYPES, by_antenna, decode, encode, width
from otfs_pipeline.frames.sigmf import Capture, Metadata, parse
from otfs_pipeline.frames.source import UNKNOWN, Frame, known_coded, known_payload
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import air_payload_mbps, slot

# Samples of a waveform that are read at once.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Segment:
    """Samples of one capture: where they are in the file, and the index of the first."""

    start: int
    first_byte: int
    bytes: int
    frequency: float | None = None

    def samples(self, each: int) -> int:
        """Whole samples of so many bytes."""
        return self.bytes // each


@dataclass(frozen=True)
class Recording:
    """Interleaved samples in a file; `seeds` gives the known payload of a frame by its start.

    Samples of several channels, an antenna's each, are interleaved too: a sample is one of each.
    `rate` is in samples a second, 0 where it is unknown.
    """

    path: Path
    datatype: str
    segments: tuple[Segment, ...]
    seeds: dict[int, tuple[int, int]] = field(default_factory=dict)
    rate: float = 0.0
    channels: int = 1

    @property
    def sample_bytes(self) -> int:
        """Of a sample of all channels."""
        return self.channels * width(self.datatype)

    def samples(self, data: bytes) -> np.ndarray:
        """Those of a frame [length], of several channels [channels, length]."""
        return by_antenna(decode(data, self.datatype), self.channels, interleaved=True)

    def frames(self, settings: Settings) -> Iterator[Frame]:
        """Frames back to back from the start of each capture; its last one may be short."""
        for known, data in self.pieces(settings):
            bits = known_payload(*known, settings) if known else UNKNOWN
            coded = known_coded(*known, settings) if known else UNKNOWN
            yield Frame(self.samples(data), bits, coded=coded)

    def pieces(self, settings: Settings) -> Iterator[tuple[tuple[int, int] | None, bytes]]:
        """Seed and index of each frame's payload, where they are known, and its bytes."""
        length = settings.q * self.sample_bytes
        for segment in self.segments:
            yield from self._read(segment, [*range(0, segment.bytes, length), segment.bytes])

    def waveform(self, settings: Settings) -> Iterator[Frame]:
        """The samples in pieces, `undecoded`, with the payload of the frame that begins with each.

        A frame begins where its preamble does.
        """
        each = self.sample_bytes
        for segment in self.segments:
            begun = {(start - segment.start) * each for start in self.seeds}
            cuts = {*range(0, segment.bytes, _PIECE * each), segment.bytes}
            cuts |= {cut for cut in begun if 0 <= cut < segment.bytes}
            for known, data in self._read(segment, sorted(cuts)):
                bits = known_payload(*known, settings) if known else UNKNOWN
                coded = known_coded(*known, settings) if known else UNKNOWN
                yield Frame(undecoded(data, self.datatype), bits, coded=coded)

    def _read(
        self, segment: Segment, cuts: list[int]
    ) -> Iterator[tuple[tuple[int, int] | None, bytes]]:
        """The pieces of a segment between `cuts`, in bytes, and the payloads that begin there."""
        try:
            with self.path.open("rb") as file:
                file.seek(segment.first_byte)
                for begin, end in itertools.pairwise(cuts):
                    start = segment.start + begin // self.sample_bytes
                    yield self.seeds.get(start), file.read(end - begin)
        except OSError as error:
            raise FoundryError(f"recording {self.path}: {error.strerror}") from error

    def count(self, settings: Settings) -> int:
        """Frames in the file, partial last ones of captures included."""
        length = settings.q * self.sample_bytes
        return sum(-(-segment.bytes // length) for segment in self.segments)

    def slots(self, samples: float) -> int:
        """Whole slots of so many samples in the file."""
        return sum(int(s.samples(self.sample_bytes) // samples) for s in self.segments)

    def captures(self) -> list[dict[str, Any]]:
        """For the report: start in samples, samples and frequency in Hz of each capture."""
        return [
            {
                "sample_start": segment.start,
                "samples": segment.samples(self.sample_bytes),
                "frequency_hz": segment.frequency,
            }
            for segment in self.segments
        ]


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
    segments = _segments(meta, place, meta.channels * width(datatype))
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


def write_recording(
    path: str, frames: list[Frame], settings: Settings, seed: int, datatype: str = "cf32_le"
) -> None:
    """Write `path`.sigmf-data and .sigmf-meta; frame i holds `transmit.payload(seed, i)`.

    Antennas are channels, sample by sample. ci16_le samples are scaled to half of full scale, so
    that no frame clips.
    """
    samples = np.concatenate([frame.samples.T.reshape(-1) for frame in frames])
    gain = 0.5 / float(np.abs(samples.view(np.float32)).max()) if datatype == "ci16_le" else 1.0
    _write(_file(path, "data"), [encode(samples, datatype, gain)])
    annotations = [
        frame_annotation(index * settings.q, settings.q, seed, index)
        for index in range(len(frames))
    ]
    _write_metadata(path, datatype, settings.bandwidth, settings, annotations, {})


def write_waveform(
    path: str,
    pieces: Iterable[bytes],
    datatype: str,
    rate: float,
    settings: Settings,
    frames: list[dict[str, Any]],
) -> None:
    """Write a waveform as `path`.sigmf-data and .sigmf-meta.

    `frames` are the annotations of the frames: where their preambles begin, and their payloads.
    """
    _write(_file(path, "data"), pieces)
    place = slot(settings)
    more = {
        "core:description": "Zak-OTFS frames as they are on the air: preamble, pulses, roll-off",
        "otfs:oversampling": rate / settings.bandwidth,
        "otfs:slot_seconds": place.seconds,
        "otfs:air_payload_mbps": air_payload_mbps(settings),
    }
    _write_metadata(path, datatype, rate, settings, frames, more)


def frame_annotation(start: int, samples: int, seed: int, index: int) -> dict[str, Any]:
    """That of frame `index`, with `transmit.payload(seed, index)`, in `samples` from `start` on."""
    return {
        "core:sample_start": start,
        "core:sample_count": samples,
        "core:label": f"frame {index}",
        "otfs:seed": seed,
        "otfs:frame": index,
    }


def _write_metadata(
    path: str,
    datatype: str,
    rate: float,
    settings: Settings,
    annotations: list[dict[str, Any]],
    more: dict[str, Any],
) -> None:
    meta = {
        "global": {
            "core:datatype": datatype,
            "core:sample_rate": rate,
            "core:version": "1.2.0",
            **({"core:num_channels": settings.antennas} if settings.antennas > 1 else {}),
            "core:description": "Zak-OTFS frames with an embedded pilot",
            "core:extensions": [{"name": "otfs", "version": "1.0.0", "optional": True}],
            "otfs:settings": asdict(settings),
            **more,
        },
        "captures": [{"core:sample_start": 0}],
        "annotations": annotations,
    }
    _write(_file(path, "meta"), [(json.dumps(meta, indent=2) + "\n").encode()])


def _file(path: str, kind: str) -> Path:
    base = Path(path)
    return base.with_name(f"{base.name}.sigmf-{kind}")


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    try:
        with AtomicFile(path) as out:
            for data in pieces:
                out.file.write(data)
            out.commit()
    except OSError as error:
        raise FoundryError(f"recording {path}: {error.strerror}") from error
