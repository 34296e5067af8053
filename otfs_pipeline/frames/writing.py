"""Recordings written: samples and their SigMF metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.atomic import AtomicFile
from foundryrt.errors import FoundryError
from otfs_pipeline.frames.samples import encode
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import air_payload_mbps, slot


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
