"""Writes ldpc_vectors.npz: digests of coded bits and decoding results of Sionna, for test_ldpc.py.

By hand, with Sionna without ray tracing (`pip install sionna-no-rt`):

    PYTHONPATH=. python tests/unit/data/make_ldpc_vectors.py
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
from sionna.phy.nr import TBEncoder
from sionna.phy.nr.utils import calculate_tb_size

# Coded bits, bits a symbol, target rate: both graphs, one and several blocks, both frame CRCs.
CASES = [
    (192, 2, 0.3), (1312, 4, 0.5), (5248, 4, 0.5), (3000, 2, 0.3), (9000, 2, 0.9), (12000, 6, 0.75),
    (20000, 4, 0.5), (40000, 4, 0.22), (60000, 6, 0.8),
]  # fmt: skip
# Message bits, sent bits and SNR in dB of BPSK for decoding; so many words each.
DECODED = [(200, 400, 1.0), (400, 500, 4.6)]
WORDS = 14
STEP = 1 / 8
"""LLRs are multiples of it, so that they are stored in a byte."""


def main() -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {"cases": np.array(CASES), "decoded": np.array(DECODED)}
    for index, (coded, bits, rate) in enumerate(CASES):
        sizes = calculate_tb_size(bits, rate, num_coded_bits=coded, target_tb_size=coded * rate)
        size = int(sizes[0])
        arrays[f"sizes{index}"] = np.array([int(sizes[0]), int(sizes[1]), int(sizes[2])])
        payload = np.random.default_rng([index]).integers(0, 2, size, dtype=np.uint8)
        encoder = TBEncoder(
            target_tb_size=size, num_coded_bits=coded, target_coderate=rate,
            num_bits_per_symbol=bits, use_scrambler=False,
        )  # fmt: skip
        sent = encoder(torch.tensor(payload[None], dtype=torch.float32)).numpy()[0]
        digest = hashlib.sha256(np.packbits(sent.astype(np.uint8)).tobytes()).digest()
        arrays[f"coded{index}"] = np.frombuffer(digest, np.uint8)
    for index, (k, n, snr_db) in enumerate(DECODED):
        encoder = LDPC5GEncoder(k, n)
        decoder = LDPC5GDecoder(encoder, cn_update="boxplus-phi", num_iter=50, llr_max=30)
        words = rng.integers(0, 2, (WORDS, k), dtype=np.uint8)
        sent = encoder(torch.tensor(words, dtype=torch.float32)).numpy()
        variance = 10 ** (-snr_db / 10)
        received = 1 - 2 * sent + np.sqrt(variance) * rng.standard_normal(sent.shape)
        llr = np.clip(np.round(2 * received / variance / STEP), -127, 127).astype(np.int8)
        # Sionna's LLRs are positive for 1.
        decided = decoder(torch.tensor(-llr * STEP, dtype=torch.float32)).numpy()
        arrays[f"word{index}"] = np.packbits(words, axis=1)
        arrays[f"llr{index}"] = llr
        arrays[f"decided{index}"] = np.packbits(decided.astype(np.uint8), axis=1)
        print(k, n, "wrong words:", int((decided != words).any(axis=1).sum()))
    np.savez_compressed(Path(__file__).parent / "ldpc_vectors.npz", **arrays)


main()
