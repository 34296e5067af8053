"""The LDPC decoder in torch: layered, static shapes, no control flow on data.

A layer is a row of the base graph: its Z_c checks of every code block, computed at once. A check
sends the box-plus of its three least reliable inputs (λ-min, λ = 3), with the correction of
min-sum as a straight line: to the least reliable input that of the other two, to all others one of
all three. So the two magnitudes and the signs are all that a check remembers.
"""

from __future__ import annotations

import numpy as np
import torch

from otfs_pipeline.coding import crc
from otfs_pipeline.coding.rate_matching import received_positions, received_rows
from otfs_pipeline.coding.transport import TransportBlock

# ln(1 + e^-x) ≈ max(0, OFFSET - SLOPE·x), which leaves box-plus without logarithms.
OFFSET, SLOPE = 0.6, 0.24
# LLR of filler bits, which are known to be 0.
FILLER_LLR = 1e4
_INFINITY = float("inf")


def tables(block: TransportBlock) -> dict[str, np.ndarray]:
    """Constants of `Decoder` by name; E edges of the base graph, n bits of a block without CRC.

    received [copies, blocks · columns · Z_c]  see `rate_matching.received_positions`; int32
    filler [columns · Z_c]                     FILLER_LLR on filler bits, else 0; float32
    edges [E · Z_c]                            which bit of a codeword each check reads; int64
    block_check [block_bits, 24 or 16]         remainders of the CRC of a code block; float32
    part_check [n, 24]                         remainders of a block's part of the frame's; float32
    part_shift [blocks, 24, 24]                what its place in the frame makes of them; float32
    The last two are there where a frame has several blocks.
    """
    graph, rows = block.graph, received_rows(block)
    k = np.arange(graph.lifting)
    edges = [
        entry.column * graph.lifting + (k + entry.shift) % graph.lifting
        for row in graph.rows[:rows]
        for entry in row
    ]
    known = graph.information_columns * graph.lifting
    filler = np.zeros((graph.information_columns + rows) * graph.lifting, np.float32)
    filler[block.block_bits : known] = FILLER_LLR
    constants: dict[str, np.ndarray] = {
        "received": received_positions(block).astype(np.int32),
        "filler": filler,
        "edges": np.concatenate(edges),
        "block_check": _rows(block.block_check, block.block_bits),
    }
    if block.blocks > 1:
        part = block.block_bits - crc.length("24B")
        constants["part_check"] = _rows(block.check, part)
        constants["part_shift"] = crc.as_bits(places(block), block.check).astype(np.float32)
    return constants


def places(block: TransportBlock) -> np.ndarray:
    """What each bit of the remainder of a block's part is in that of the frame, as words.

    uint32 [blocks, check bits], the highest power first.
    """
    width = block.check_bits
    part = block.block_bits - crc.length(block.block_check)
    # x^(width-1) ... x^0 times x^(bits that follow), modulo the generator.
    after = crc.words(block.check, (block.blocks - 1) * part + width)
    return np.stack([after[i * part : i * part + width] for i in range(block.blocks)])


def _rows(check: str, count: int) -> np.ndarray:
    """Remainders of `count` bits, float32 [count, check bits]."""
    return crc.as_bits(crc.words(check, count), check).astype(np.float32)


class Decoder:
    """Decodes the LLRs of a frame with the constants of `tables` as tensors, on their device."""

    def __init__(
        self, block: TransportBlock, iterations: int, constants: dict[str, torch.Tensor]
    ) -> None:
        self.block = block
        self.iterations = iterations
        self.tables = constants

    def __call__(self, llr: torch.Tensor) -> dict[str, torch.Tensor]:
        """LLRs [coded bits] as received, positive for 0.

        Gives `payload` uint8 [payload bits], `block_errors` uint8 [blocks], 1 where the CRC of a
        code block fails, and `frame_error` uint8 [], 1 where any CRC fails. A block fails too where
        a bit stays undecided: a word of zeros has the right CRC.
        """
        block = self.block
        posterior = self.gather(llr)
        self.iterate(posterior)
        decided = posterior[:, : block.block_bits]
        hard = (decided < 0).to(torch.float32)
        undecided = (decided == 0).to(torch.float32).amax(1)
        failed = torch.maximum(self._remainder(hard, "block_check").amax(1), undecided)
        part = block.block_bits - crc.length(block.block_check)
        payload = hard[:, :part].reshape(-1)
        frame_error = failed.amax()
        if block.blocks > 1:
            whole = self._remainder(hard[:, :part], "part_check").unsqueeze(1)
            remainder = torch.bmm(whole, self.tables["part_shift"]).sum((0, 1)).remainder(2)
            frame_error = torch.maximum(frame_error, remainder.amax())
        return {
            "payload": payload[: block.payload_bits].to(torch.uint8),
            "block_errors": failed.to(torch.uint8),
            "frame_error": frame_error.to(torch.uint8),
        }

    def gather(self, llr: torch.Tensor) -> torch.Tensor:
        """LLRs [coded bits] to those of the codewords [blocks, columns · Z_c]; 0: not received."""
        padded = torch.cat([llr, torch.zeros_like(llr[:1])])
        received = self.tables["received"]
        total = padded.index_select(0, received[0])
        for copy in received[1:]:
            total = total + padded.index_select(0, copy)
        return total.view(self.block.blocks, -1) + self.tables["filler"]

    def iterate(self, posterior: torch.Tensor) -> None:
        """Turn channel LLRs of codewords [any, columns · Z_c] into a posteriori LLRs, in place."""
        graph = self.block.graph
        rows = graph.rows[: received_rows(self.block)]
        sent = [posterior.new_zeros(posterior.shape[0], len(row), graph.lifting) for row in rows]
        for _ in range(self.iterations):
            start = 0
            for index, row in enumerate(rows):
                stop = start + len(row) * graph.lifting
                edges = self.tables["edges"][start:stop]
                inputs = posterior.index_select(1, edges).view(sent[index].shape) - sent[index]
                sent[index] = messages(inputs)
                posterior.index_copy_(1, edges, (inputs + sent[index]).flatten(1))
                start = stop

    def _remainder(self, bits: torch.Tensor, name: str) -> torch.Tensor:
        """Remainders of words [blocks, bits] as 0.0 or 1.0: sums of bits are exact in float32."""
        return (bits @ self.tables[name]).remainder(2)


def messages(inputs: torch.Tensor) -> torch.Tensor:
    """What checks send for their inputs [blocks, degree, Z_c], degree 3 or more; the same shape."""
    sign = torch.copysign(torch.ones_like(inputs), inputs)
    parity = sign.prod(1)
    rest = inputs.abs()
    first, least = rest.min(1)
    rest.scatter_(1, least.unsqueeze(1), _INFINITY)
    second, next_least = rest.min(1)
    rest.scatter_(1, next_least.unsqueeze(1), _INFINITY)
    third = rest.amin(1)
    to_least = box_plus(second, third)
    to_others = box_plus(torch.minimum(first, to_least), torch.maximum(first, to_least))
    sent = (parity * to_others).unsqueeze(1).repeat(1, inputs.shape[1], 1)
    sent.scatter_(1, least.unsqueeze(1), (parity * to_least).unsqueeze(1))
    return sent * sign


def box_plus(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """ln((1 + e^(low+high)) / (e^low + e^high)) of magnitudes 0 <= low <= high, nearly; >= 0."""
    together = torch.rsub(low + high, OFFSET, alpha=SLOPE).relu()
    apart = torch.rsub(high - low, OFFSET, alpha=SLOPE).relu()
    return low + together - apart
