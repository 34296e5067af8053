"""The receiver of the host target: three native operators (foundryrt/native/zak), samples to LLRs.

Of a spread pilot the first one's work is torch's, and the others take the frame as it would be with
a point pilot.

Each Doppler period has iterations of its own, as on the GPU, and they are preconditioned: the
oracle is `reference.receive(..., preconditioned=True)`.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from foundryrt.host import zak  # noqa: F401  makes the operators known to torch
from foundryrt.native.zak_core import Link
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
        doppler_reach=settings.doppler_range,
        pilot_amplitude=settings.pilot_amplitude,
    )


def tables(settings: Settings) -> dict[str, np.ndarray]:
    """Constants of the receiver by name; a point pilot's has none."""
    return pilot.tables(settings) if settings.pilot == "spread" else {}


class NativeReceiver:
    """As `eager.Receiver`, of CPU tensors; `constants` are those of `tables`, made unless given."""

    def __init__(
        self, settings: Settings, constants: dict[str, torch.Tensor] | None = None
    ) -> None:
        self._settings = settings
        if constants is None:
            constants = {name: torch.from_numpy(x) for name, x in tables(settings).items()}
        self._constants = constants
        self._link = asdict(link(settings))
        self._outputs = signature(settings).outputs

    def __call__(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples complex64 of one frame, as in `signature.signature`, to its outputs."""
        s, link, ops = self._settings, self._link, torch.ops.foundry
        out = {
            name: samples.new_empty(like.shape, dtype=getattr(torch, like.dtype))
            for name, like in self._outputs.items()
        }
        if s.pilot == "spread":
            samples, taps = self._with_a_point(samples, out)
        else:
            window = (2 * s.doppler_range + 1, s.window_delays)
            taps = samples.new_empty((*samples.shape[:-1], *window))
            ops.zak_estimate(
                samples, **link, tap_sigmas=s.tap_sigmas, max_taps=s.max_taps, taps=taps,
                noise_variance=out["noise_variance"], kept=out["taps"],
            )  # fmt: skip
        equalized = samples.new_empty(s.q)
        bias = out["mu"].new_empty(s.n)
        ops.zak_equalize(
            samples, taps, out["noise_variance"], **link, iterations=s.preconditioned_iterations,
            equalized=equalized, bias=bias,
        )  # fmt: skip
        ops.zak_demap(
            equalized, bias, **link, axis_bits=s.bits_per_symbol // 2,
            **{name: out[name] for name in ("symbols", "llr", "bits", "mu", "variance")},
        )  # fmt: skip
        return out

    def _with_a_point(
        self, samples: torch.Tensor, out: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frame as with a point pilot, and the taps; sets what `zak_estimate` does."""
        s, delays = self._settings, seen_delays(self._settings)
        periods = samples.view(*samples.shape[:-1], s.n, s.m)
        seen = periods[..., int(delays[0]) : int(delays[-1]) + 1]
        grid = torch.fft.fft(seen, dim=-2, norm="ortho")
        taps, out["noise_variance"] = pilot.estimate(grid, s, self._constants)
        out["taps"] = (taps.abs() > 0).sum((-2, -1))
        return pilot.with_a_point(samples, taps, s, self._constants), taps
