"""Recordings of raw samples with SigMF metadata, read frame by frame and written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.atomic import AtomicFile
from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.frames.samples import DATATYPES, decode, encode, width
from otfs_pipeline.frames.source import UNKNOWN, Frame, known_payload
from otfs_pipeline.settings import Settings


@dataclass(frozen=True)
class Recording:
    """A file of interleaved samples; `seeds` gives the known payload of a frame by its start."""

    path: Path
    datatype: str
    seeds: dict[int, tuple[int, int]]

    def frames(self, settings: Settings) -> Iterator[Frame]:
        """Frames back to back from the start; the last is short where the file ends inside it."""
        with self.path.open("rb") as file:
            start = 0
            while data := file.read(settings.q * width(self.datatype)):
                known = self.seeds.get(start)
                bits = known_payload(*known, settings) if known else UNKNOWN
                yield Frame(decode(data, self.datatype), bits)
                start += settings.q

    def count(self, settings: Settings) -> int:
        """Frames in the file, a partial last one included."""
        return -(-self.path.stat().st_size // (settings.q * width(self.datatype)))


def open_recording(path: str, metadata: str, datatype: str, settings: Settings) -> Recording:
    """A recording by its data file or .sigmf-meta; `datatype` overrides or replaces metadata.

    UsageError or FoundryError where a file is missing or fits neither SigMF nor `settings`.
    """
    data = Path(path)
    if data.suffix == ".sigmf-meta":
        data, metadata = data.with_suffix(".sigmf-data"), metadata or path
    beside = data.with_suffix(".sigmf-meta")
    meta_path = Path(metadata) if metadata else beside
    if not data.is_file():
        raise UsageError(f"recording {data} does not exist; give a file of raw samples")
    meta: dict[str, Any] = {}
    if metadata or beside.is_file():
        meta = _read_metadata(meta_path, settings)
        datatype = datatype or str(meta["global"].get("core:datatype", ""))
    if datatype not in DATATYPES:
        known = " or ".join(DATATYPES)
        raise UsageError(
            f"recording {data}: datatype {datatype or 'unknown'!r}; give --datatype {known}, or "
            f"metadata in {beside.name}"
        )
    return Recording(data, datatype, _known_payloads(meta, meta_path))


def write_recording(
    path: str, frames: list[Frame], settings: Settings, seed: int, datatype: str = "cf32_le"
) -> None:
    """Write `path`.sigmf-data and .sigmf-meta; frame i holds `transmit.payload(seed, i)`.

    ci16_le samples are scaled to half of full scale, so that no frame clips.
    """
    samples = np.concatenate([frame.samples for frame in frames])
    gain = 0.5 / float(np.abs(samples.view(np.float32)).max()) if datatype == "ci16_le" else 1.0
    base = Path(path)
    _write(base.with_name(base.name + ".sigmf-data"), encode(samples, datatype, gain))
    annotations = [
        {
            "core:sample_start": index * settings.q,
            "core:sample_count": settings.q,
            "core:label": f"frame {index}",
            "otfs:seed": seed,
            "otfs:frame": index,
        }
        for index in range(len(frames))
    ]
    meta = {
        "global": {
            "core:datatype": datatype,
            "core:sample_rate": settings.bandwidth,
            "core:version": "1.2.0",
            "core:description": "Zak-OTFS frames with an embedded pilot",
            "core:extensions": [{"name": "otfs", "version": "1.0.0", "optional": True}],
            "otfs:settings": asdict(settings),
        },
        "captures": [{"core:sample_start": 0}],
        "annotations": annotations,
    }
    text = json.dumps(meta, indent=2) + "\n"
    _write(base.with_name(base.name + ".sigmf-meta"), text.encode())


def _write(path: Path, data: bytes) -> None:
    try:
        with AtomicFile(path) as out:
            out.file.write(data)
            out.commit()
    except OSError as error:
        raise FoundryError(f"recording {path}: {error.strerror}") from error


def _read_metadata(path: Path, settings: Settings) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        rate = meta["global"].get("core:sample_rate", settings.bandwidth)
        off = abs(float(rate) / settings.bandwidth - 1) > 1e-6
    except OSError as error:
        raise UsageError(f"metadata {path}: {error.strerror}; give --metadata FILE") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise FoundryError(f"metadata {path} is no SigMF: {error!r}") from error
    if off:
        raise FoundryError(
            f"metadata {path}: {rate} samples a second, and the bundle receives "
            f"{settings.bandwidth:g}; capture a bundle of that bandwidth"
        )
    waveform = ("grid", "nu_p", "modulation", "guard", "pilot_db", "delay_spread", "pulse")
    sent = meta["global"].get("otfs:settings", {})
    for name in waveform if isinstance(sent, dict) else ():
        if name in sent and sent[name] != getattr(settings, name):
            raise FoundryError(
                f"metadata {path}: sent with {name} {sent[name]}, and the bundle was captured "
                f"with {getattr(settings, name)}; capture one with the recording's settings"
            )
    return dict(meta)


def _known_payloads(meta: dict[str, Any], path: Path) -> dict[int, tuple[int, int]]:
    known = {}
    try:
        for note in meta.get("annotations", []):
            if "otfs:seed" in note:
                seed, index = int(note["otfs:seed"]), int(note["otfs:frame"])
                if seed < 0 or index < 0:
                    raise ValueError(f"seed {seed}, frame {index}")
                known[int(note["core:sample_start"])] = seed, index
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FoundryError(
            f"metadata {path}: an annotation names no payload ({error!r}); remove its otfs:seed"
        ) from error
    return known
