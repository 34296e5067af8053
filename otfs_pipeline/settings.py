"""Settings of a Zak-OTFS link, recorded in the bundle at capture and read from it online."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foundryrt.errors import FoundryError, UsageError
from foundryrt.options import option
from otfs_pipeline.coding.transport import TransportBlock

# Bins beyond the physical spread that the window of the channel estimate covers: (delay, Doppler).
WINDOW_REACH = {"rrc": (8, 4), "sinc": (24, 8)}
# Bins beyond the physical spread at which the simulated channel cuts the pulses' tails.
CHANNEL_REACH = {"rrc": 8, "sinc": 48}
# Bins beyond nu_max that are estimated of frames with a prefix; and taps, half a bin apart, beyond
# these which continue what is estimated to the frame's ends.
_PREFIX_REACH, _CONTINUED = 2, 4
# Beyond it the code has too few checks to decode (3GPP TS 38.214, 5.1.3).
LARGEST_RATE = 0.95


@dataclass(frozen=True)
class Settings:
    """Grid, waveform, pilot and receiver of one link. UsageError for an impossible value."""

    grid: str = option("1024x32", "delay x Doppler bins (M x N)")
    nu_p: float = option(15e3, "Doppler period in Hz")
    nu_max: float = option(815.0, "largest Doppler shift in Hz")
    delay_spread: float = option(2.51e-6, "largest path delay in seconds")
    waveform: str = option(
        "zak", "zak, or cp: a cyclic prefix, and a rectangle as the pulse in time"
    )
    pulse: str = option("rrc", "pulse in delay and Doppler: rrc, or sinc, best with waveform cp")
    rolloff: float = option(0.6, "roll-off of the rrc pulse in delay, 0 < rolloff <= 1")
    doppler_rolloff: float = option(0.0, "roll-off of the rrc pulse in Doppler; 0: as in delay")
    modulation: int = option(16, "points of the QAM constellation: 4, 16 or 64")
    pilot: str = option(
        "point", "point, or spread: a chirp along the guard strip, without the point's peaks"
    )
    pilot_db: float = option(
        0.0,
        "pilot energy over a symbol's in dB; 0: as many symbols as the guard has bins",
    )
    guard: int = option(0, "delay bins of the guard strip, odd; 0: from the spread")
    doppler_reach: int = option(
        0, "Doppler bins that are estimated beyond nu_max; 0: 4 (rrc), 8 (sinc), 2 (cp)"
    )
    gain_model: str = option("fixed", "path gains of the synthetic source: fixed or rayleigh")
    antennas: int = option(1, "receive antennas that are combined: 1, 2 or 4")
    iterations: int = option(
        0, "conjugate-gradient iterations K, of which a preconditioner leaves K/4 (CPU) or K/6 (GPU"
        " with clusters); 0: by the modulation",
    )  # fmt: skip
    tap_sigmas: float = option(3.0, "taps are kept above this many noise standard deviations")
    max_taps: int = option(192, "taps kept at most, the strongest; of a sinc with cp, delays")
    code_rate: float = option(
        0.0, "target rate of the 5G NR LDPC code, such as 0.5; 0: frames are not coded"
    )
    decoder_iterations: int = option(32, "iterations of the LDPC decoder, at most")

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Settings:
        """The settings that a bundle was captured with.

        FoundryError where they are not those of this version.
        """
        try:
            return cls(**values)
        except (TypeError, UsageError) as error:
            raise FoundryError(
                f"the bundle's settings do not fit this version of otfs_pipeline ({error}); "
                "capture it again"
            ) from error

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d{0,6}x[1-9]\d{0,4}", self.grid):
            raise UsageError(f"grid {self.grid!r}: write delay x Doppler bins, such as 1024x32")
        _choice("pulse", self.pulse, ("rrc", "sinc"))
        _choice("waveform", self.waveform, ("zak", "cp"))
        _choice("pilot", self.pilot, ("point", "spread"))
        _choice("modulation", self.modulation, (4, 16, 64))
        _choice("antennas", self.antennas, (1, 2, 4))
        _choice("gain-model", self.gain_model, ("fixed", "rayleigh"))
        _range("nu-p", self.nu_p, 1.0, 1e9)
        _range("nu-max", self.nu_max, 0.0, self.nu_p / 2)
        _range("delay-spread", self.delay_spread, 0.0, 0.5 / self.nu_p)
        _range("rolloff", self.rolloff, 1e-3, 1.0)
        if self.pulse == "sinc":
            _without_effect(self, "rolloff", "is of --pulse rrc; a sinc has none")
            _without_effect(self, "doppler_rolloff", "is of --pulse rrc; a sinc has none")
        if self.doppler_rolloff:
            _range("doppler-rolloff", self.doppler_rolloff, 1e-3, 1.0)
        _range("pilot-db", self.pilot_db, 0.0, 80.0)
        _range("doppler-reach", self.doppler_reach, 0, self.n)
        _range("iterations", self.iterations, 0, 1000)
        _range("tap-sigmas", self.tap_sigmas, 0.0, 100.0)
        least = 2 * self.delay_taps + 3
        if self.guard % 2 == 0 and self.guard != 0:
            raise UsageError(f"guard {self.guard}: the pilot is in its middle; use an odd number")
        if not least <= self.guard_bins < self.m:
            raise UsageError(
                f"guard of {self.guard_bins} delay bins in grid {self.grid}: use {least} to "
                f"{self.m - 1}, or a larger grid"
            )
        if self.waveform == "cp":
            self._check_prefix()
        kp, half = self.pilot_bin[0], self.guard_bins // 2
        reaches = kp - half + self.first_tap, kp + half + self.last_tap
        if self.pilot == "spread" and not 0 <= reaches[0] <= reaches[1] < self.m:
            raise UsageError(
                f"guard of {self.guard_bins} delay bins in grid {self.grid}: the response to a "
                "spread pilot would reach the next one; use a smaller guard, a larger grid or "
                "a point pilot"
            )
        if self.waveform == "zak" and 2 * self.doppler_range + 1 >= self.n:
            raise UsageError(
                f"grid {self.grid}: the channel covers {2 * self.doppler_range + 1} Doppler bins, "
                f"the noise estimate needs one more; use more than {self.n} or a smaller "
                "doppler-reach"
            )
        _range("max-taps", self.max_taps, 1, self.window_delays * (2 * self.doppler_range + 1))
        _range("decoder-iterations", self.decoder_iterations, 1, 1000)
        if not self.code_rate:
            _without_effect(self, "decoder_iterations", "needs --code-rate")
        else:
            _range("code-rate", self.code_rate, 0.1, LARGEST_RATE)
            block = self.transport_block
            if block is None or block.effective_rate > LARGEST_RATE:
                raise UsageError(
                    f"code-rate {self.code_rate} in grid {self.grid}: the frame is too small for "
                    "its checksums; use a lower rate or a larger grid"
                )

    def _check_prefix(self) -> None:
        if self.pilot != "point":
            raise UsageError(f"pilot {self.pilot}: a frame with a prefix takes a point pilot")
        if self.doppler_rolloff:
            raise UsageError("doppler-rolloff: a frame with a prefix has a rectangle in time")
        # More Slepian sequences than a channel leaks into (link/slepian.py).
        rows = 2 * self.reached_bins + math.log2(self.n) + 2
        if rows >= self.n or self.doppler_range >= self.n:
            raise UsageError(
                f"grid {self.grid}: Dopplers up to {self.nu_max:g} Hz leave nothing for the noise "
                f"estimate; use more than {self.n} Doppler bins, a smaller nu-max or doppler-reach"
            )

    @property
    def m(self) -> int:
        """Delay bins."""
        return int(self.grid.split("x")[0])

    @property
    def n(self) -> int:
        """Doppler bins."""
        return int(self.grid.split("x")[1])

    @property
    def q(self) -> int:
        """Samples a frame, M·N."""
        return self.m * self.n

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of a frame's samples: [MN], of several antennas [antennas, MN]."""
        return (self.q,) if self.antennas == 1 else (self.antennas, self.q)

    def stream_shape(self, samples: int) -> tuple[int, ...]:
        """Shape of so many samples of a waveform: [S], of several antennas [S, antennas]."""
        return (samples,) if self.antennas == 1 else (samples, self.antennas)

    @property
    def bandwidth(self) -> float:
        """Hz, and complex samples a second."""
        return self.m * self.nu_p

    @property
    def frame_seconds(self) -> float:
        """Duration of a frame in seconds: the receiver's deadline."""
        return self.n / self.nu_p

    @property
    def cg_iterations(self) -> int:
        """K; by default one that leaves no bit error rate above 1e-5 however little noise is."""
        return self.iterations or (48 if self.modulation == 64 else 28)

    @property
    def preconditioned_iterations(self) -> int:
        """Iterations that do as well with the circulant preconditioner as K without."""
        return -(-self.cg_iterations // 4)

    @property
    def overlapped_iterations(self) -> int:
        """The same of a circulant matrix for each block of a period, as on the GPU."""
        return -(-self.cg_iterations // 6)

    @property
    def bits_per_symbol(self) -> int:
        return self.modulation.bit_length() - 1

    @property
    def rolloffs(self) -> tuple[float, float]:
        """Roll-offs in delay and Doppler of the raised cosines that the pulses make together.

        0 is sinc.
        """
        if self.pulse == "sinc":
            return 0.0, 0.0
        if self.waveform == "cp":
            return self.rolloff, 0.0
        return self.rolloff, self.doppler_rolloff or self.rolloff

    @property
    def level_scale(self) -> float:
        """Amplitude of the lowest level of a QAM axis at unit symbol energy."""
        return 1 / math.sqrt(2 * (self.modulation - 1) / 3)

    @property
    def transport_block(self) -> TransportBlock | None:
        """How a frame's payload is coded; None where it is not."""
        if not self.code_rate:
            return None
        sent = (self.m - self.guard_bins) * self.n * self.bits_per_symbol
        return TransportBlock.of(sent, self.bits_per_symbol, self.code_rate)

    @property
    def delay_taps(self) -> int:
        """Delay bins of the largest path delay."""
        return math.ceil(self.delay_spread * self.bandwidth)

    @property
    def doppler_range(self) -> int:
        """Doppler taps -D to D are estimated; with a prefix they are half a bin apart."""
        if self.waveform == "cp":
            return math.ceil(2 * self.reached_bins) + _CONTINUED
        reach = self.doppler_reach or WINDOW_REACH[self.pulse][1]
        return math.ceil(self.nu_max * self.frame_seconds) + reach

    @property
    def reached_bins(self) -> float:
        """With a prefix, the largest Doppler that is estimated, in bins."""
        return self.nu_max * self.frame_seconds + (self.doppler_reach or _PREFIX_REACH)

    @property
    def doppler_step(self) -> float:
        """Bins from a Doppler tap to the next."""
        return 0.5 if self.waveform == "cp" else 1.0

    @property
    def guard_bins(self) -> int:
        """Delay bins of the guard strip, the pilot's own among them."""
        # A spread pilot's taps take their reach twice: of the chirp, and of what is seen of it.
        reach = WINDOW_REACH[self.pulse][0] * (2 if self.pilot == "spread" else 1)
        return self.guard or 2 * (self.delay_taps + reach) + 1

    @property
    def first_tap(self) -> int:
        """Smallest (negative) delay tap that is estimated."""
        beyond = self.guard_bins // 2 - self.delay_taps
        return -(beyond // 2) if self.pilot == "spread" else -beyond

    @property
    def last_tap(self) -> int:
        """Largest delay tap that is estimated."""
        return self.delay_taps - self.first_tap

    @property
    def window_delays(self) -> int:
        """Delay taps that are estimated."""
        return self.last_tap - self.first_tap + 1

    @property
    def pilot_bin(self) -> tuple[int, int]:
        """Delay and Doppler bin of the pilot; of a spread one, of its middle.

        With a prefix the strip is at the end of each Doppler period.
        """
        if self.waveform == "cp":
            return self.m - 1 - self.guard_bins // 2, self.n // 2
        return self.m // 2, self.n // 2

    @property
    def pilot_energy(self) -> float:
        """Energy of the pilot, where a symbol has 1."""
        return 10 ** (self.pilot_db / 10) if self.pilot_db else float(self.guard_bins * self.n)

    @property
    def chirp_period(self) -> int:
        """Delay bins of a spread pilot in which its taps are all seen, and nothing of the data."""
        return self.guard_bins - self.window_delays + 1

    @property
    def pilot_amplitude(self) -> float:
        """Amplitude that the taps are read with: a point pilot's, or what a spread one amounts to.

        Of a spread pilot's energy only that of one period counts.
        """
        share = self.chirp_period / self.guard_bins if self.pilot == "spread" else 1.0
        return math.sqrt(self.pilot_energy * share)


def _choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value!r}: use {' or '.join(str(x) for x in allowed)}")


def _without_effect(settings: Settings, name: str, why: str) -> None:
    """UsageError where a setting was given that would change nothing."""
    value = getattr(settings, name)
    if value != getattr(Settings, name):
        raise UsageError(f"{name.replace('_', '-')} {value}: it {why}")


def _range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} {value}: use {low:g} to {high:g}")
