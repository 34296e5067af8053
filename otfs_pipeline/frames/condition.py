"""How received frames were: an entry for each, and totals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otfs_pipeline.frames.source import Frame
from otfs_pipeline.link import frame as layout
from otfs_pipeline.link.qam import nearest_energy
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import QUALITY

OUTPUTS = ("noise_variance", "variance", "taps", *QUALITY, "evm")
"""The outputs of the receiver that this reads."""
# Energy of 32 samples over the median of the same delays. Fading alone reached 6.2 in 200 frames
# of Vehicular-A with fixed and Rayleigh gains, on grids from 31x37 to 1024x32.
BURST = 10.0
# The EVM's square over what noise of the variance that the equalizer expects amounts to, and over
# the square of half the distance of two points. In 60 frames each of nine links at 0 to 60 dB the
# first is at most 1.5 up to 30 dB; beyond, where it may be more, the second is less.
_BESIDE, _HARMFUL = 2.0, 0.2


class Fit:
    """Whether a link's symbols lie where its points are, by what the receiver says of a frame.

    `mismatch` counts frames whose symbols are farther from the points than their noise explains: of
    another modulation or pilot, with a carrier offset out of range, clipped, with a strong
    interferer. `noisy` counts frames that are not coded and whose noise, its standard deviation on
    an axis, is more than half the distance of two points: some tenth of the bits is wrong.
    """

    OUTPUTS = ("variance", "evm")

    def __init__(self, settings: Settings) -> None:
        self.flags = {"mismatch": 0, "noisy": 0}
        self._coded = bool(settings.code_rate)
        self._square = settings.level_scale**2
        decibels = np.linspace(-50, 30, 161)
        self._variances = self._square * 10 ** (decibels / 10)
        self._nearest = np.array(
            [nearest_energy(each, settings.modulation) for each in self._variances]
        )

    def take(self, outputs: Mapping[str, np.ndarray]) -> dict[str, bool]:
        """Count a frame by its OUTPUTS, and say which flags it has."""
        variance, energy = float(outputs["variance"]), float(outputs["evm"]) ** 2
        expected = float(np.interp(variance, self._variances, self._nearest))
        raised = {
            "mismatch": energy > max(_BESIDE * expected, _HARMFUL * self._square),
            "noisy": not self._coded and variance > 2 * self._square,
        }
        for name, is_raised in raised.items():
            self.flags[name] += is_raised
        return raised


@dataclass
class Conditions:
    """The frames of a link that were received; a frame without flags is good.

    Of several antennas the lines have lists of what each received; the SNR is that of all together.
    """

    settings: Settings
    frames: int = 0
    good: int = 0
    flags: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("clipped", "burst", "missing", "mismatch", "noisy", "crc"), 0
        )
    )
    snr_db: list[float] = field(default_factory=list)
    fit: Fit = field(init=False)

    def __post_init__(self) -> None:
        self.fit = Fit(self.settings)

    def take(
        self, frame: Frame, outputs: Mapping[str, np.ndarray], errors: dict[str, int | None]
    ) -> dict[str, Any]:
        """Count a frame by the receiver's outputs, and say how it was, for JSON.

        `errors` are its bit errors by the keys that they are to have.
        """
        values = {name: np.asarray(outputs[name], dtype=np.float64) for name in OUTPUTS}
        entry = self._entry(frame, values, outputs) | errors
        raised = self._raised(values, entry) | self.fit.take(outputs)
        flags = [name for name in self.flags if raised[name]]
        self.frames += 1
        self.good += not flags
        for name in flags:
            self.flags[name] += 1
        if entry["snr_db"] is not None:
            self.snr_db.append(entry["snr_db"])
        shown = {name: _digits(value) for name, value in entry.items()}
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

    def _entry(
        self, frame: Frame, values: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        link = self.settings
        noise, variance = values["noise_variance"], float(values["variance"])
        # All energy is the sent frame's through the channel, and noise.
        sent = link.pilot_energy + layout.data_symbols(link)
        gain = (values["power"] - noise) * link.q / sent
        # Of an antenna without noise there is no SNR; those of the others add up.
        snr = np.sum(np.divide(gain, noise, where=noise > 0, out=np.zeros(gain.shape)))
        entry: dict[str, Any] = {
            "frame": self.frames,
            "snr_db": _decibel(float(snr)),
            "noise_variance": _each(noise, float),
            "channel_gain_db": _each(gain, _decibel),
            "taps": _each(values["taps"], int),
            "equalized_snr_db": _decibel(1 / variance) if variance else None,
            "evm_percent": 100 * float(values["evm"]),
            "peak": _each(values["peak"], float),
            "clipped_samples": _each(values["clipped"], int),
            "burst_db": _each(values["burst"], _decibel),
            "missing_samples": _each(values["missing"], int),
        }
        if frame.carrier_hz is not None and frame.drift_s is not None:
            entry["carrier_hz"] = frame.carrier_hz
            entry["timing_us"] = 1e6 * frame.drift_s
        if link.transport_block:
            entry["crc"] = not outputs["frame_error"]
            entry["block_errors"] = int(np.count_nonzero(outputs["block_errors"]))
        return entry

    def _raised(
        self, values: Mapping[str, np.ndarray], entry: Mapping[str, Any]
    ) -> dict[str, bool]:
        return {
            # A point pilot's pulses, one a period, are a frame's largest samples and clip first.
            "clipped": bool((values["clipped"] >= max(2, self.settings.n // 4)).any()),
            "burst": bool(((values["burst"] > BURST) & np.isfinite(values["burst"])).any()),
            "missing": bool((values["missing"] > 0).any()),
            "crc": not entry.get("crc", True),
        }


def _each(values: np.ndarray, of: Callable[[float], Any]) -> Any:
    """`of` a value [], or the list of each antenna's [antennas]."""
    return [of(value) for value in values.tolist()] if values.ndim else of(values.item())


def _digits(value: Any) -> Any:
    """Six digits: a frame's figures are not better than that, and its line is shorter."""
    if isinstance(value, list):
        return [_digits(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _decibel(ratio: float) -> float | None:
    """None where the ratio is not positive and finite, which has no decibels in JSON."""
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else None
