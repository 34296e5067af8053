"""The LDPC decoder's kernels against the decoder in torch on the CPU. Prints JSON."""

from __future__ import annotations

import json

import numpy as np
import torch

from foundryc.cuda.kernels import architecture
from otfs_pipeline.coding import encode
from otfs_pipeline.coding.transport import TransportBlock
from otfs_pipeline.receiver.decoder import Decoder, tables
from otfs_pipeline.receiver.kernels.decoder import KernelDecoder, Program
from otfs_pipeline.receiver.kernels.platforms import platform

ITERATIONS = 20
# Noise at which blocks are decoded with room to spare, so that rounding decides nothing.
CASES = {
    "small": (TransportBlock.of(600, 4, 0.5), 0.7),
    "repeated": (TransportBlock(40, 600, 2, 0.1), 1.6),
    "graph 2": (TransportBlock.of(9000, 6, 0.45), 0.74),
    "graph 1": (TransportBlock.of(20_000, 4, 0.45), 0.8),
    "version 3": (TransportBlock(1000, 3000, 2, 0.5, 3), 0.7),
    "all rows": (TransportBlock.of(60_000, 4, 0.34), 0.8),
    "operating point": (TransportBlock.of(1_944_000, 4, 0.5), 0.7),
}


def compare(block: TransportBlock, sigma: float) -> dict[str, object]:
    rng = np.random.default_rng(6)
    payload = rng.integers(0, 2, block.payload_bits, dtype=np.uint8)
    sent = 1.0 - 2.0 * encode.encode(payload, block)
    llr = torch.from_numpy(
        (2 * (sent + sigma * rng.standard_normal(sent.shape)) / sigma**2).astype(np.float32)
    )
    # A code block that cannot be decoded must be named, too.
    spoilt = llr.clone()
    spoilt[: block.sent_bits(0)] *= -1
    program = Program(block, ITERATIONS)
    constants = {name: torch.from_numpy(v).cuda() for name, v in program.constants().items()}
    kernels = KernelDecoder(program, constants, platform(architecture()))
    good, again, bad = (kernels(x.cuda()) for x in (llr, llr, spoilt))
    host = {name: torch.from_numpy(value) for name, value in tables(block).items()}
    expected = Decoder(block, ITERATIONS, host)(llr)
    torch.cuda.synchronize()
    return {
        "payload": int((good["payload"].cpu().numpy() != payload).sum()),
        "as_torch": all(torch.equal(good[name].cpu(), expected[name]) for name in expected),
        "frame_error": int(good["frame_error"]),
        "repeats": all(torch.equal(good[name], again[name]) for name in good),
        "spoilt_blocks": bad["block_errors"].cpu().nonzero().flatten().tolist(),
        "spoilt_frame": int(bad["frame_error"]),
    }


print(json.dumps({name: compare(*case) for name, case in CASES.items()}))
