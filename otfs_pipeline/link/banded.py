"""The channel in the frequency domain: cyclic and banded, one band a Doppler tap.

R[f] = Σ_b A_b[f] S[f-b] with A_b[f] = Σ_a h[a,b] e^{-j2πaf/Q}; S and R are the DFTs of the frame's
time samples. All of the delay taps of a Doppler tap cost one product, so this is the fast form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otfs_pipeline.link.channel import Taps


@dataclass(frozen=True)
class Bands:
    """Doppler shifts [B] in bins and coefficients A_b[f], [B, Q] or [antennas, B, Q] complex."""

    doppler: np.ndarray
    value: np.ndarray


def bands(taps: Taps, q: int) -> Bands:
    """Coefficients of the taps for frames of q samples."""
    doppler = np.unique(taps.doppler)
    response = np.zeros((doppler.size, q), dtype=np.complex128)
    row = np.searchsorted(doppler, taps.doppler)
    np.add.at(response, (row, np.mod(taps.delay, q)), taps.value)
    return Bands(doppler, np.fft.fft(response, axis=1))


def antenna_bands(taps: Sequence[Taps], q: int) -> Bands:
    """Coefficients of the channels to several antennas."""
    found = [bands(one, q) for one in taps]
    doppler = np.unique(np.concatenate([one.doppler for one in found]))
    value = np.zeros((len(found), doppler.size, q), dtype=np.complex128)
    for antenna, one in zip(value, found, strict=True):
        antenna[np.searchsorted(doppler, one.doppler)] = one.value
    return Bands(doppler, value)


def apply(spectrum: np.ndarray, channel: Bands) -> np.ndarray:
    """H on a spectrum [Q], in the precision of both; [antennas, Q] of several antennas."""
    values = np.moveaxis(channel.value, -2, 0)
    out = np.zeros(values.shape[1:], np.result_type(spectrum, channel.value))
    for b, value in zip(channel.doppler, values, strict=True):
        out += value * np.roll(spectrum, b)
    return out


def apply_adjoint(spectrum: np.ndarray, channel: Bands) -> np.ndarray:
    """H^H on a spectrum [Q] or [antennas, Q], which gives [Q], in the precision of both."""
    values = np.moveaxis(channel.value, -2, 0)
    out = np.zeros(spectrum.shape[-1:], np.result_type(spectrum, channel.value))
    for b, value in zip(channel.doppler, values, strict=True):
        product = np.conj(value) * spectrum
        out += np.roll(product if product.ndim == 1 else product.sum(axis=0), -b)
    return out


def apply_samples(samples: np.ndarray, channel: Bands) -> np.ndarray:
    """The cyclic time-domain channel on samples [Q], through the frequency domain.

    Gives [antennas, Q] of several antennas.
    """
    return np.fft.ifft(apply(np.fft.fft(samples), channel))
