"""The receiver of the host target: three native operators (foundryrt/native/zak), samples to LLRs.

Of a spread pilot and of frames with a prefix the first one's work is torch's, and the others take
another frame in place of the one that was received.

Each Doppler period has iterations of its own, as on the GPU, and they are preconditioned: the
oracle is `reference.receive(..., preconditioned=True)`.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import torch

from foundryrt.host import zak  # noqa: F401  makes the operators known to torch
from foundryrt.native.zak_core import Link
from otfs_pipeline.link.frame import solved_periods
from otfs_pipeline.link.pilot import seen_delays
from otfs_pipeline.receiver import pilot
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import signature


def link(settings: Settings) -> Link:
    """What the core has to know of the frames."""
    kp, lp = settings.pilot_bin
    return Link(
        delay_bins=settings.m,
        doppler_bins=settings.n,
        pilot_delay=kp,
        pilot_doppler=lp,
        guard_bins=settings.guard_bins,
        first_tap=settings.first_tap,
        window_delays=settings.window_delays,
        # With a prefix Dopplers are those of `solved_link` alone.
        doppler_reach=settings.doppler_range if settings.waveform == "zak" else 0,
        pilot_amplitude=settings.pilot_amplitude,
    )


def solved_link(settings: Settings) -> Link:
    """Of the frame that is equalized: with a prefix one of 2N periods (link/prefix.py)."""
    one = link(settings)
    times = solved_periods(settings) // settings.n
    return replace(
        one,
        doppler_bins=times * one.doppler_bins,
        pilot_doppler=times * one.pilot_doppler,
        doppler_reach=settings.doppler_range,
        pilot_amplitude=times**0.5 * one.pilot_amplitude,
    )


def tables(settings: Settings) -> dict[str, np.ndarray]:
    """Constants of the receiver by name; there are none where `zak_estimate` finds the channel."""
    return {} if _is_plain(settings) else pilot.tables(settings)


def _is_plain(settings: Settings) -> bool:
    return settings.pilot == "point" and settings.waveform == "zak"


class NativeReceiver:
    """As `eager.Receiver`, of CPU tensors; `constants` are those of `tables`, made unless given."""

    def __init__(
        self, settings: Settings, constants: dict[str, torch.Tensor] | None = None
    ) -> None:
        self._settings = settings
        if constants is None:
            constants = {name: torch.from_numpy(x) for name, x in tables(settings).items()}
        self._constants = constants
        self._link, self._solved = asdict(link(settings)), asdict(solved_link(settings))
        self._outputs = signature(settings).outputs

    def __call__(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples complex64 of one frame, as in `signature.signature`, to its outputs."""
        s, ops = self._settings, torch.ops.foundry
        out = {
            name: samples.new_empty(like.shape, dtype=getattr(torch, like.dtype))
            for name, like in self._outputs.items()
        }
        if _is_plain(s):
            window = (2 * s.doppler_range + 1, s.window_delays)
            taps = samples.new_empty((*samples.shape[:-1], *window))
            ops.zak_estimate(
                samples, **self._link, tap_sigmas=s.tap_sigmas, max_taps=s.max_taps, taps=taps,
                noise_variance=out["noise_variance"], kept=out["taps"],
            )  # fmt: skip
        else:
            samples, taps = self._prepared(samples, out)
        periods = solved_periods(s)
        equalized = samples.new_empty(periods * s.m)
        bias = out["mu"].new_empty(periods)
        ops.zak_equalize(
            samples, taps, out["noise_variance"], **self._solved,
            iterations=s.preconditioned_iterations, equalized=equalized, bias=bias,
        )  # fmt: skip
        if periods > s.n:
            # Of the periods from strip to strip the last holds the frame's beginning.
            equalized, bias = equalized[: s.q], torch.cat([bias[-1:], bias[: s.n - 1]])
        ops.zak_demap(
            equalized, bias, **self._link, axis_bits=s.bits_per_symbol // 2,
            **{name: out[name] for name in ("symbols", "llr", "bits", "mu", "variance")},
        )  # fmt: skip
        return out

    def _prepared(
        self, samples: torch.Tensor, out: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is equalized, and its taps; sets what `zak_estimate` does.

        The frame as it would be with a point pilot, or one with a prefix and its empty half.
        """
        s, delays = self._settings, seen_delays(self._settings)
        periods = samples.view(*samples.shape[:-1], s.n, s.m)
        seen = periods[..., int(delays[0]) : int(delays[-1]) + 1]
        if s.waveform == "cp":
            taps, noise = pilot.estimate_with_prefix(seen, s, self._constants)
            prepared = torch.cat([samples, torch.zeros_like(samples)], dim=-1)
        else:
            grid = torch.fft.fft(seen, dim=-2, norm="ortho")
            taps, noise = pilot.estimate(grid, s, self._constants)
            prepared = pilot.with_a_point(samples, taps, s, self._constants)
        out["noise_variance"], out["taps"] = noise, (taps.abs() > 0).sum((-2, -1))
        return prepared, taps
