"""The channel from a frame's pilot in torch, on any device, and what a spread pilot adds to it.

The equations are in link/pilot.py; estimate.py there is the oracle.
"""

from __future__ import annotations

import numpy as np
import torch

from otfs_pipeline.link.pilot import matched, pilot_strip, point_strip, seen_delays
from otfs_pipeline.link.prefix import TINY, least_energy, mixing, most_delays, reading
from otfs_pipeline.link.slepian import channel_shares, noise_row
from otfs_pipeline.link.smoothing import is_smoothed, left_noise, smoothing
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import smooth


def tables(settings: Settings) -> dict[str, np.ndarray]:
    """Constants of `estimate` and `with_a_point`, complex64; B Doppler taps, W delay taps.

    read_off [B, 1 or W]  what is seen to ĥ; of a point e^{-j2πb kp/Q} / A
    Of a frame with a prefix `reading` [N, N] and `mixing` [B, rows] of link/prefix.py instead,
    `share` [rows, 1] of link/slepian.py and `left` [W], what smoothing.py leaves of the noise, both
    float32. Of a sinc then its matrix, too, transposed: `smoothing` [W, W].
    Of a spread pilot, which is seen in L delays, and whose response has R:
    untwist [N, L]        e^{-j2πbk/Q}, b = -D ... N-D-1
    matched [L]           the conjugate spectrum of `pilot.matched`
    twist [B, W]          e^{-j2πba/Q}
    exchange [S]          the spectrum of the strip less that of a point, S >= R
    retwist [B, R]        e^{j2πbk/Q}
    periods [N, B]        e^{j2πn(lp+b)/N} / √N
    """
    s = settings
    if s.waveform == "cp":
        smoothed = {"smoothing": smoothing(s).T.astype(np.complex64)} if is_smoothed(s) else {}
        return smoothed | {
            "reading": reading(s).astype(np.complex64),
            "mixing": mixing(s).astype(np.complex64),
            "share": channel_shares(s)[:, None].astype(np.float32),
            "left": left_noise(s).astype(np.float32),
        }
    (kp, lp), n = s.pilot_bin, np.arange(s.n)[:, None]
    b = n - s.doppler_range
    channel = b[: 2 * s.doppler_range + 1]
    a = s.first_tap + np.arange(s.window_delays)
    exact: dict[str, np.ndarray] = {"read_off": _turned(-channel * kp / s.q) / s.pilot_amplitude}
    if s.pilot == "spread":
        k = _response_delays(s)
        exact = {
            "untwist": _turned(-b * seen_delays(s) / s.q),
            "matched": np.fft.fft(matched(s)).conj(),
            "read_off": _turned(channel * a / s.q) / s.pilot_amplitude,
            "twist": _turned(-channel * a / s.q),
            "exchange": np.fft.fft(pilot_strip(s) - point_strip(s), smooth(k.size)),
            "retwist": _turned(channel * k / s.q),
            "periods": _turned(n * (lp + channel.T) / s.n) / np.sqrt(s.n),
        }
    return {name: value.astype(np.complex64) for name, value in exact.items()}


def estimate(
    seen: torch.Tensor, settings: Settings, tables: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Taps h[b, a] of the window, and σ², of one or more antennas.

    `seen` complex64 [..., N, L] are the delays `seen_delays` of a received grid.
    """
    s, t = settings, tables
    rows = 2 * s.doppler_range + 1
    seen = seen.roll(s.doppler_range - s.pilot_bin[1], -2)
    if s.pilot == "spread":
        spectrum = torch.fft.fft(seen * t["untwist"]) * t["matched"]
        seen = torch.fft.ifft(spectrum)[..., : s.window_delays]
    noise = _energy(seen[..., rows:, :]).mean((-2, -1))
    h = seen[..., :rows, :] * t["read_off"]
    energy = _energy(h)
    strongest = energy.flatten(-2).topk(s.max_taps).values[..., -1]
    threshold = noise * (s.tap_sigmas**2 / s.pilot_amplitude**2)
    floor = torch.maximum(strongest, threshold).unsqueeze(-1).unsqueeze(-1)
    return h * (energy >= floor).to(energy.dtype), noise


def estimate_with_prefix(
    seen: torch.Tensor, settings: Settings, tables: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of frames with a prefix (see link/prefix.py); `seen` are delays of the samples."""
    s, t = settings, tables
    rows = t["share"].shape[0]
    window = t["reading"] @ seen
    noise = _energy(window[..., noise_row(s) :, :]).mean((-2, -1))
    window = window[..., :rows, :]
    if is_smoothed(s):
        window = window @ t["smoothing"]
    each = noise.unsqueeze(-1) * t["left"]
    energy = _energy(window).sum(-2)
    energy = energy * (energy >= each * least_energy(s)).to(energy.dtype)
    strongest = energy.topk(most_delays(s)).values[..., -1:]
    keep = (energy >= strongest).to(energy.dtype)
    power = ((energy - rows * each).clamp_min(0) * keep).unsqueeze(-2) * t["share"]
    weight = power / (power + each.unsqueeze(-2)).clamp_min(TINY)
    return t["mixing"] @ (window * weight), noise


def _energy(values: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(values).square().sum(-1)


def with_a_point(
    samples: torch.Tensor, h: torch.Tensor, settings: Settings, tables: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Samples [..., MN] as they would be had the frame a point pilot in place of a spread one.

    The channel's response to their difference is taken off.
    """
    s, t = settings, tables
    delays = _response_delays(s)
    spectrum = torch.fft.fft(h * t["twist"], n=t["exchange"].shape[0]) * t["exchange"]
    response = torch.fft.ifft(spectrum)[..., : delays.size] * t["retwist"]
    periods = samples.view(*samples.shape[:-1], s.n, s.m).clone()
    periods[..., int(delays[0]) : int(delays[-1]) + 1] -= t["periods"] @ response
    return periods.view(samples.shape)


def _response_delays(settings: Settings) -> np.ndarray:
    """Delay bins that a spread pilot's response reaches, int64 [R]."""
    first = settings.pilot_bin[0] - settings.guard_bins // 2 + settings.first_tap
    return first + np.arange(settings.guard_bins + settings.window_delays - 1)


def _turned(turns: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(2j * np.pi * turns))
