"""Power delay profiles: Vehicular-A, EVA, or a user's file; and channels drawn from them."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.errors import FoundryError, UsageError
from foundryrt.printable import reason
from otfs_pipeline.link.channel import Paths, Taps, effective_taps
from otfs_pipeline.settings import CHANNEL_REACH, Settings


@dataclass(frozen=True)
class Profile:
    """Paths [P]: delay in seconds, mean power (sum 1), Doppler in Hz; NaN is drawn at random."""

    name: str
    delay: np.ndarray
    power: np.ndarray
    doppler: np.ndarray

    def draw(self, rng: np.random.Generator, nu_max: float, gain_model: str) -> Paths:
        """One channel. gain_model 'fixed' turns phases only, 'rayleigh' draws CN(0, power).

        A Doppler that is not given is nu_max·cos θ with θ uniform. ValueError for another model.
        """
        count = self.delay.size
        if gain_model == "fixed":
            gain = np.sqrt(self.power) * np.exp(2j * np.pi * rng.random(count))
        elif gain_model == "rayleigh":
            gain = np.sqrt(self.power / 2) * (
                rng.standard_normal(count) + 1j * rng.standard_normal(count)
            )
        else:
            raise ValueError(f"draw: gain_model {gain_model!r}; use 'fixed' or 'rayleigh'")
        drawn = nu_max * np.cos(2 * np.pi * rng.random(count))
        return Paths(gain, self.delay, np.where(np.isnan(self.doppler), drawn, self.doppler))

    def taps(self, rng: np.random.Generator, settings: Settings) -> Taps:
        """The effective taps of one channel, cut where the simulated link cuts them."""
        return simulated_taps(self.draw(rng, settings.nu_max, settings.gain_model), settings)

    def check(self, settings: Settings) -> None:
        """UsageError where the link's settings do not cover its delays or Dopplers."""
        longest = float(self.delay.max())
        if longest > settings.delay_spread * (1 + 1e-9):
            raise UsageError(
                f"channel {self.name}: delays up to {longest * 1e9:g} ns, and the link expects "
                f"{settings.delay_spread * 1e9:g} ns; capture with --delay-spread {longest:g}"
            )
        fastest = float(np.nanmax(np.abs(self.doppler), initial=0.0))
        if fastest > settings.nu_max * (1 + 1e-9):
            raise UsageError(
                f"channel {self.name}: Doppler up to {fastest:g} Hz, and the link expects "
                f"{settings.nu_max:g} Hz; capture with --nu-max {fastest:g}"
            )


def simulated_taps(paths: Paths, settings: Settings) -> Taps:
    """The effective taps of these paths, cut where the simulated link cuts them."""
    s = settings
    reach = CHANNEL_REACH[s.pulse]
    return effective_taps(paths, s.m, s.n, s.nu_p, s.rolloffs, reach)


def _profile(name: str, rows: list[tuple[float, float, float]]) -> Profile:
    delay, decibels, doppler = np.array(rows, dtype=np.float64).T
    # Levels are relative to that of the strongest path.
    power = 10 ** ((decibels - decibels.max()) / 10)
    return Profile(name, delay * 1e-9, power / power.sum(), doppler)


def _standard(name: str, delays: tuple[int, ...], decibels: tuple[float, ...]) -> Profile:
    return _profile(name, [(d, p, math.nan) for d, p in zip(delays, decibels, strict=True)])


VEHICULAR_A = _standard(
    "vehicular-a", (0, 310, 710, 1090, 1730, 2510), (0.0, -1.0, -9.0, -10.0, -15.0, -20.0)
)
"""ITU-R M.1225, vehicular test environment, channel A."""
EVA = _standard(
    "eva",
    (0, 30, 150, 310, 370, 710, 1090, 1730, 2510),
    (0.0, -1.5, -1.4, -3.6, -0.6, -9.1, -7.0, -12.0, -16.9),
)
"""3GPP TS 36.104, table B.2-3: Extended Vehicular A."""
STANDARD = {profile.name: profile for profile in (VEHICULAR_A, EVA)}


_OTHER_FORM = (
    ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, csv.Error,
)  # fmt: skip


def find(name: str) -> Profile:
    """A standard profile by name, or that of a .csv or .json file.

    CSV: a header and the columns delay_ns, power_db and, if wanted, doppler_hz. JSON: a list of
    objects with those keys. UsageError where there is none, FoundryError for invalid contents.
    """
    if name in STANDARD:
        return STANDARD[name]
    path = Path(name)
    if path.suffix not in (".csv", ".json"):
        raise UsageError(
            f"channel {name!r}: use {', '.join(STANDARD)}, or a .csv or .json file of paths"
        )
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else _json(text)
        values = [_row(row) for row in rows]
    except OSError as error:
        raise UsageError(f"channel {path}: {error.strerror}") from error
    except _OTHER_FORM as error:
        raise FoundryError(
            f"channel {path}: {reason(error)}; each path needs the numbers delay_ns >= 0 and "
            "power_db, and may have doppler_hz"
        ) from error
    if not values:
        raise FoundryError(f"channel {path}: no path in it")
    return _profile(path.name, values)


def _json(text: str) -> list[Any]:
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("no list of paths")
    return rows


def _row(row: dict[str, Any]) -> tuple[float, float, float]:
    delay, decibels = float(row["delay_ns"]), float(row["power_db"])
    given = row.get("doppler_hz")
    doppler = float(given) if given not in (None, "") else math.nan
    if not (math.isfinite(delay) and delay >= 0 and math.isfinite(decibels)):
        raise ValueError(f"delay_ns {delay}, power_db {decibels}")
    if given not in (None, "") and not math.isfinite(doppler):
        raise ValueError(f"doppler_hz {doppler}")
    return delay, decibels, doppler
