"""Block error rates of the receiver's LDPC decoder and of belief propagation on the same LLRs.

Frames of the simulated link go through the float64 receiver, channel and noise estimated from the
pilot. Belief propagation is in float64 with a flooding schedule and 50 iterations. A frame's
channel and noise are the same at every SNR, but for the noise's scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results
from otfs_pipeline.coding import encode, reference
from otfs_pipeline.coding.transport import TransportBlock
from otfs_pipeline.frames import source
from otfs_pipeline.link import reference as receiver
from otfs_pipeline.receiver.decoder import Decoder, tables
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.bootstrap import interval, snr_at

TARGET = 1e-2
# Frames that are decoded together.
BATCH = 16
REFERENCE_ITERATIONS = 50


def errors(
    link: Settings, block: TransportBlock, snr: float, frames: int
) -> Iterator[dict[str, np.ndarray]]:
    """By batch: wrong blocks [frames, blocks] of both decoders, and BER before decoding."""
    constants = {name: torch.from_numpy(value) for name, value in tables(block).items()}
    decoder = Decoder(block, link.decoder_iterations, constants)
    for first in range(0, frames, BATCH):
        channel, sent, uncoded = [], [], []
        for index in range(first, min(first + BATCH, frames)):
            frame = source.simulate(link, snr, 11, index)
            got = receiver.receive(frame.samples.astype(np.complex128), link)
            channel.append(reference.gather(got.llr.ravel(), block))
            sent.append(encode.segment(frame.bits, block)[:, : block.block_bits])
            uncoded.append(float(np.mean(got.bits.ravel() != frame.coded)))
        given, words = np.concatenate(channel), np.concatenate(sent)
        posterior = torch.from_numpy(given.astype(np.float32))
        with torch.no_grad():
            decoder.iterate(posterior)
        ours = posterior[:, : block.block_bits].numpy() < 0
        theirs = reference.belief_propagation(given, block, REFERENCE_ITERATIONS)
        yield {
            "decoder": (ours != words).any(axis=1).reshape(-1, block.blocks),
            "belief_propagation": (theirs != words).any(axis=1).reshape(-1, block.blocks),
            "uncoded_ber": np.array(uncoded)[:, None],
        }


def losses(found: dict[str, np.ndarray], snrs: np.ndarray) -> dict[str, object]:
    """SNR at TARGET of both decoders and their difference; `found` is [frames, SNRs, blocks]."""
    both = np.stack([found["decoder"], found["belief_propagation"]], axis=1)

    def loss(rows: np.ndarray) -> float:
        rates = rows.mean(axis=(0, 3))
        return snr_at(TARGET, snrs, rates[0]) - snr_at(TARGET, snrs, rates[1])

    def known(value: float) -> float | None:
        return value if np.isfinite(value) else None

    rates = both.mean(axis=(0, 3))
    return {
        "decoder_loss_db": known(loss(both)),
        "decoder_loss_ci95": interval(both, loss),
        "snr_at_target_db": {
            "decoder": known(snr_at(TARGET, snrs, rates[0])),
            "belief_propagation": known(snr_at(TARGET, snrs, rates[1])),
        },
        "block_error_rate": {"decoder": rates[0].tolist(), "belief_propagation": rates[1].tolist()},
        "uncoded_ber": found["uncoded_ber"].mean(axis=(0, 2)).tolist(),
    }


def run(
    grid: Annotated[str, Option(help="Delay x Doppler bins.")] = "256x32",
    rate: Annotated[float, Option(help="Target code rate.")] = 0.5,
    snrs: Annotated[
        str, Option(help="SNRs in dB, rising, comma-separated.")
    ] = "11.5,12,12.5,13,13.5",
    frames: Annotated[int, Option(help="Frames at each SNR.")] = 400,
    output: Output = RESULTS / "otfs_coding.json",
) -> None:
    """Measure what the decoder loses against float belief propagation."""
    link = Settings(grid=grid, code_rate=rate)
    block = link.transport_block
    assert block is not None
    points = [float(text) for text in snrs.split(",")]
    columns: dict[str, list[np.ndarray]] = {}
    for snr in points:
        batches = list(errors(link, block, snr, frames))
        for name in batches[0]:
            whole = np.concatenate([batch[name] for batch in batches]).astype(float)
            columns.setdefault(name, []).append(whole)
        shown = {name: f"{values[-1].mean():.4f}" for name, values in columns.items()}
        say(f"{snr:g} dB, {frames} frames: {shown}")
    found = {name: np.stack(values, axis=1) for name, values in columns.items()}
    result = {
        "date": today(),
        "device": f"{cpu()}, numpy {np.__version__}, torch {torch.__version__}",
        "protocol": "Vehicular-A, fixed gains, estimated channel and noise; both decoders get the "
        "same LLRs, those of the float64 receiver; interval: 95 % bootstrap over frames",
        "grid": grid,
        "modulation": link.modulation,
        "target_rate": rate,
        "rate": block.payload_bits / block.coded_bits,
        "base_graph": block.base_graph,
        "lifting_size": block.graph.lifting,
        "blocks_a_frame": block.blocks,
        "decoder": f"layered, λ-min with λ = 3, float32, {link.decoder_iterations} iterations",
        "reference": f"belief propagation, flooding, float64, {REFERENCE_ITERATIONS} iterations",
        "target_block_error_rate": TARGET,
        "frames": frames,
        "snr_db": points,
        **losses(found, np.array(points)),
    }
    write_results(output, result)
