"""How received frames were: an entry for each, and totals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otfs_pipeline.frames.source import Frame
from otfs_pipeline.link import frame as layout
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import quality

OUTPUTS = ("noise_variance", "variance", "taps", *quality())
"""The outputs of the receiver that this reads."""
# Energy of 32 samples over the median of the same delays. Fading alone reached 6.2 in 200 frames
# of Vehicular-A with fixed and Rayleigh gains, on grids from 31x37 to 1024x32.
BURST = 10.0


@dataclass
class Conditions:
    """The frames of a link that were received; a frame without flags is good."""

    settings: Settings
    frames: int = 0
    good: int = 0
    flags: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("clipped", "burst", "missing", "crc"), 0)
    )
    snr_db: list[float] = field(default_factory=list)

    def take(
        self, frame: Frame, outputs: Mapping[str, np.ndarray], errors: dict[str, int | None]
    ) -> dict[str, Any]:
        """Count a frame by the receiver's outputs, and say how it was, for JSON.

        `errors` are its bit errors by the keys that they are to have.
        """
        entry = self._entry(frame, outputs) | errors
        flags = [name for name, raised in self._raised(entry).items() if raised]
        self.frames += 1
        self.good += not flags
        for name in flags:
            self.flags[name] += 1
        if entry["snr_db"] is not None:
            self.snr_db.append(entry["snr_db"])
        shown = {k: _digits(v) if isinstance(v, float) else v for k, v in entry.items()}
        return shown | {"flags": flags}

    def totals(self) -> dict[str, Any]:
        """For the report."""
        snr = np.array(self.snr_db)
        return {
            "frames": self.frames,
            "good": self.good,
            "flags": dict(self.flags),
            "snr_db": {"mean": float(snr.mean()), "least": float(snr.min())} if snr.size else None,
        }

    def _entry(self, frame: Frame, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        link = self.settings
        values = {name: float(outputs[name]) for name in OUTPUTS}
        noise = values["noise_variance"]
        # All energy is the sent frame's through the channel, and noise.
        sent = link.pilot_amplitude**2 + layout.data_symbols(link)
        gain = (values["power"] - noise) * link.q / sent
        entry: dict[str, Any] = {
            "frame": self.frames,
            "snr_db": _decibel(gain / noise) if noise > 0 else None,
            "noise_variance": noise,
            "channel_gain_db": _decibel(gain),
            "taps": int(values["taps"]),
            "equalized_snr_db": _decibel(1 / values["variance"]) if values["variance"] else None,
            "evm_percent": 100 * values["evm"],
            "peak": values["peak"],
            "clipped_samples": int(values["clipped"]),
            "burst_db": _decibel(values["burst"]),
            "missing_samples": int(values["missing"]),
        }
        if frame.carrier_hz is not None and frame.drift_s is not None:
            entry["carrier_hz"] = frame.carrier_hz
            entry["timing_us"] = 1e6 * frame.drift_s
        if link.transport_block:
            entry["crc"] = not outputs["frame_error"]
            entry["block_errors"] = int(np.count_nonzero(outputs["block_errors"]))
        return entry

    def _raised(self, entry: Mapping[str, Any]) -> dict[str, bool]:
        burst = entry["burst_db"]
        return {
            # The pilot's pulses, one a period, are a frame's largest samples and clip first.
            "clipped": entry["clipped_samples"] >= max(2, self.settings.n // 4),
            "burst": burst is not None and burst > 10 * math.log10(BURST),
            "missing": entry["missing_samples"] > 0,
            "crc": not entry.get("crc", True),
        }


def _digits(value: float) -> float:
    """Six digits: a frame's figures are not better than that, and its line is shorter."""
    return float(f"{value:.6g}")


def _decibel(ratio: float) -> float | None:
    """None where the ratio is not positive and finite, which has no decibels in JSON."""
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else None
