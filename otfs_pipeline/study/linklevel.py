"""Bit error rates of one simulated frame: the same frame for every receiver that is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from otfs_pipeline.link import banded, equalize, qam, reference, transmit, zak
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.estimate import Estimate
from otfs_pipeline.link.profile import Profile
from otfs_pipeline.link.simulated import Channel
from otfs_pipeline.settings import Settings

# The dense LMMSE inverts a matrix of as many rows as the grid has bins.
LMMSE_BINS = 4096
_EIGENVALUE_BINS = (64, 64)

Errors = dict[str, list[float]]


def truncated(taps: Taps, fraction: float) -> Taps:
    """The strongest taps that together hold `fraction` of the energy."""
    order = np.argsort(-np.abs(taps.value))
    energy = np.cumsum(np.abs(taps.value[order]) ** 2)
    keep = order[: np.searchsorted(energy, fraction * energy[-1]) + 1]
    return Taps(taps.value[keep], taps.delay[keep], taps.doppler[keep])


def equalizers(
    link: Settings,
    profile: Profile,
    snrs: Sequence[float],
    iterations: Sequence[int],
    fractions: Sequence[float],
    rng: np.random.Generator,
) -> Errors:
    """BER at each SNR with the channel known and data in every bin.

    `lmmse` up to LMMSE_BINS bins, `cgK` for K in `iterations`, `taps F` for CG with the link's K
    on `fractions` of the taps' energy.
    """
    taps = profile.taps(rng, link)
    bits = rng.integers(0, 2, (link.q, link.bits_per_symbol), dtype=np.uint8)
    grid = qam.modulate(bits, link.modulation).reshape(link.m, link.n)

    def known(taps: Taps) -> tuple[banded.Bands, np.ndarray]:
        return banded.bands(taps, link.q), equalize.eigenvalues(taps, _EIGENVALUE_BINS)

    whole = known(taps)
    clean = banded.apply_samples(zak.inverse_zak(grid), whole[0])
    noise = unit_noise(rng, clean.shape)
    runs = [(f"cg{k}", whole, k) for k in iterations]
    runs += [(f"taps {f:.2%}", known(truncated(taps, f)), link.cg_iterations) for f in fractions]
    dense = equalize.dense_time(taps, link.q) if link.q <= LMMSE_BINS else None
    gram = None if dense is None else dense.conj().T @ dense

    def ber(samples: np.ndarray, mu: float) -> float:
        symbols = zak.zak(samples, link.m, link.n).ravel() / mu
        return float(np.mean((qam.max_log_llr(symbols, 1.0, link.modulation) < 0) != bits))

    errors: Errors = {}
    for snr in snrs:
        sigma2 = 10 ** (-snr / 10)
        received = clean + np.sqrt(sigma2) * noise
        if dense is not None and gram is not None:
            inverse = np.linalg.inv(gram + sigma2 * np.eye(link.q))
            mu = 1 - sigma2 * float(np.trace(inverse).real) / link.q
            errors.setdefault("lmmse", []).append(ber(inverse @ (dense.conj().T @ received), mu))
        for name, (bands, eigenvalue), count in runs:
            solution = equalize.frequency_cg(received, bands, sigma2, count)
            mu, _ = equalize.bias(solution, eigenvalue, sigma2)
            errors.setdefault(name, []).append(ber(solution.x, mu))
    return errors


def estimation(
    link: Settings,
    profile: Profile,
    snrs: Sequence[float],
    rng: np.random.Generator,
    clip_db: float = 0.0,
) -> Errors:
    """BER at each SNR of a frame with a pilot: channel and noise known, or estimated from it.

    The SNR is that of each of the link's antennas. `clipped` is there unless `clip_db` is 0: the
    sender cuts samples so far over their rms, and the channel is estimated.
    """
    channel = Channel.draw(profile, rng, link)
    bits = transmit.payload(int(rng.integers(1 << 31)), 0, link)
    sent = transmit.transmit(bits, link)
    clean = channel.apply(sent)
    noise = unit_noise(rng, clean.shape)
    errors: Errors = {"perfect": [], "estimated": []}
    if clip_db:
        errors["clipped"] = []
        cut = channel.apply(clipped(sent, clip_db))
    for snr in snrs:
        sigma2 = 10 ** (-snr / 10)
        perfect = [Estimate(one, sigma2) for one in channel.taps]
        runs = [("perfect", clean, perfect), ("estimated", clean, None)]
        if clip_db:
            runs.append(("clipped", cut, None))
        for name, through, known in runs:
            received = through + np.sqrt(sigma2) * noise
            decided = reference.receive(received, link, known).bits.ravel()
            errors[name].append(float(np.mean(decided != bits)))
    return errors


def clipped(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Samples whose modulus is at most so many decibels over their rms."""
    modulus = np.abs(samples)
    most = np.sqrt(np.mean(modulus**2)) * 10 ** (decibels / 20)
    return np.asarray(samples * np.minimum(1, most / np.maximum(modulus, most)))


def unit_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """CN(0, 1) of this shape."""
    noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return np.asarray(np.sqrt(0.5) * noise)
