"""Bit errors before the LDPC decoder and block errors after it, of one simulated frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from foundryrt.errors import FoundryError, install
from otfs_pipeline.link import reference, transmit
from otfs_pipeline.link.profile import Profile
from otfs_pipeline.link.simulated import Channel
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.linklevel import Errors, unit_noise


def decoding(
    link: Settings, profile: Profile, snrs: Sequence[float], rng: np.random.Generator
) -> Errors:
    """At each SNR of a coded frame: `uncoded` bit errors, and the shares of `blocks` with errors.

    Channel and noise are estimated from the pilot. `frames` is 1 where any payload bit is wrong.
    """
    decode = _decoder(link)
    channel = Channel.draw(profile, rng, link)
    payload = transmit.payload(int(rng.integers(1 << 31)), 0, link)
    sent = transmit.coded(payload, link)
    clean = channel.apply(transmit.modulate(sent, link))
    noise = unit_noise(rng, clean.shape)
    errors: Errors = {"uncoded": [], "blocks": [], "frames": []}
    for snr in snrs:
        received = reference.receive(clean + 10 ** (-snr / 20) * noise, link)
        errors["uncoded"].append(float(np.mean(received.bits.ravel() != sent)))
        decoded = decode(received.llr.ravel())
        errors["blocks"].append(float(decoded["block_errors"].mean()))
        errors["frames"].append(float((decoded["payload"] != payload).any()))
    return errors


@cache
def _decoder(link: Settings) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """LLRs [coded bits] to the results of `receiver.decoder.Decoder`."""
    try:
        import torch
    except ImportError as error:
        raise FoundryError(f"--code-rate decodes with torch: {install('host')}") from error
    from otfs_pipeline.receiver.decoder import Decoder, tables

    block = link.transport_block
    if block is None:
        raise ValueError("decoding: the link is not coded")
    constants = {name: torch.from_numpy(value) for name, value in tables(block).items()}
    decoder = Decoder(block, link.decoder_iterations, constants)

    def decode(llr: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = decoder(torch.from_numpy(llr.astype(np.float32)))
        return {name: value.numpy() for name, value in found.items()}

    return decode
