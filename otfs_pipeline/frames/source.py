"""Frames of a simulated link, one by one or as a pool that is repeated."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from otfs_pipeline.link import frame, transmit
from otfs_pipeline.link.profile import VEHICULAR_A, Profile
from otfs_pipeline.link.simulated import Channel
from otfs_pipeline.settings import Settings

UNKNOWN = np.empty(0, np.uint8)
# Bytes of samples and payload that a pool may hold where its size is not given.
POOL_BYTES = 256 << 20


@dataclass(frozen=True)
class Frame:
    """Samples as received, complex64, and the payload bits where they are known (else empty).

    Samples are [MN], of several antennas [antennas, MN].

    `ready` is when the last sample arrived (time.perf_counter); 0: when the frame is submitted.
    `coded` are the bits that the payload was sent as, where they are known (else empty). Of a frame
    that was found in a waveform, `carrier_hz` is its carrier offset and `drift_s` by how many
    seconds it comes late (see `synchronize.Found`). A piece of a waveform that is `retuned` was
    received on another carrier than those before, and does not continue them.
    """

    samples: np.ndarray
    bits: np.ndarray
    ready: float = 0.0
    coded: np.ndarray = field(default_factory=lambda: UNKNOWN)
    carrier_hz: float | None = None
    drift_s: float | None = None
    retuned: bool = False

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What the receiver's graph takes."""
        return {"samples": self.samples}

    def told(self, outputs: Mapping[str, np.ndarray]) -> Frame | None:
        """The frame with what the graph's outputs say of it; None where they are of no frame."""
        return self


@lru_cache(maxsize=64)
def known_payload(seed: int, index: int, settings: Settings) -> np.ndarray:
    """`transmit.payload`, cached: senders and recordings repeat it. uint8 [bits], read-only."""
    bits = transmit.payload(seed, index, settings)
    bits.flags.writeable = False
    return bits


@lru_cache(maxsize=64)
def known_coded(seed: int, index: int, settings: Settings) -> np.ndarray:
    """What `known_payload` is sent as, cached. uint8 [coded bits], read-only."""
    coded = transmit.coded(known_payload(seed, index, settings), settings)
    coded.flags.writeable = False
    return coded


def simulate(
    settings: Settings, snr_db: float, seed: int, index: int, profile: Profile = VEHICULAR_A
) -> Frame:
    """Frame `index` of a run, through a channel of its own; noise 1/SNR at unit symbol energy.

    Several antennas fade independently of each other, each with this SNR.
    """
    rng = np.random.default_rng([seed, index, 1])
    channel = Channel.draw(profile, rng, settings)
    bits = transmit.payload(seed, index, settings)
    coded = transmit.coded(bits, settings)
    sent = transmit.modulate(coded, settings)
    clean = channel.apply(sent)
    noise = rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape)
    received = clean + np.sqrt(10 ** (-snr_db / 10) / 2) * noise
    return Frame(received.astype(np.complex64), bits, coded=coded)


def synthetic(
    settings: Settings, snr_db: float, seed: int, frames: int, profile: Profile = VEHICULAR_A
) -> Iterator[Frame]:
    """`frames` simulated frames, each through a channel of its own."""
    return (simulate(settings, snr_db, seed, index, profile) for index in range(frames))


def pool_size(settings: Settings, frames: int) -> int:
    """How many frames of a run fit in POOL_BYTES, at most all of them."""
    each = (
        8 * settings.antennas * settings.q
        + frame.payload_bits(settings)
        + frame.coded_bits(settings)
    )
    return max(1, min(frames, POOL_BYTES // each))


def pool(make: Callable[[int], Frame], size: int) -> Iterator[Frame]:
    """Frames 0 to size-1, made in parallel threads; closing the iterator cancels the rest."""
    workers = ThreadPoolExecutor(min(size, os.cpu_count() or 1))
    try:
        yield from workers.map(make, range(size))
    finally:
        workers.shutdown(cancel_futures=True)


def repeat(frames: list[Frame], count: int) -> Iterator[Frame]:
    """The pool's frames in a cycle, `count` in all."""
    return itertools.islice(itertools.cycle(frames), count)


def placed(item: Frame, samples: np.ndarray) -> Frame:
    """The frame with its samples copied to `samples`, such as pinned memory."""
    samples[...] = item.samples
    return replace(item, samples=samples)
