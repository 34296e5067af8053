"""Belief propagation in float64, flooding schedule: what other decoders are compared with."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.coding.encode import parity_checks
from otfs_pipeline.coding.graph import LiftedGraph
from otfs_pipeline.coding.rate_matching import received_positions, received_rows
from otfs_pipeline.coding.transport import TransportBlock

# Where tanh(x/2) is 1 in float64, nearly; a filler bit's LLR, too.
_LARGEST = 30.0


def decode(llr: np.ndarray, block: TransportBlock, iterations: int = 50) -> np.ndarray:
    """LLRs [coded_bits] as received, positive for 0, to code blocks uint8 [blocks, block_bits]."""
    return belief_propagation(gather(llr, block), block, iterations)


def belief_propagation(
    channel: np.ndarray, block: TransportBlock, iterations: int = 50
) -> np.ndarray:
    """LLRs of any number of codewords, as of `gather`, to code blocks uint8 [..., block_bits].

    A codeword whose checks are all fulfilled is left as it is.
    """
    graph = _received_part(block)
    count = channel.shape[0]
    channel = channel.reshape(count, graph.columns, graph.lifting)
    posterior = channel.copy()
    sent = [np.zeros((count, len(row), graph.lifting)) for row in graph.rows]
    left = np.arange(count)
    for _ in range(iterations):
        left = left[parity_checks((posterior[left] < 0).view(np.uint8), graph).any(axis=(1, 2))]
        if not left.size:
            break
        total = channel[left]
        for row, messages in zip(graph.rows, sent, strict=True):
            inputs = np.stack(
                [np.roll(posterior[left, e.column], -e.shift, axis=-1) for e in row], axis=1
            )
            messages[left] = box_plus(inputs - messages[left])
            for index, e in enumerate(row):
                total[:, e.column] += np.roll(messages[left, index], e.shift, axis=-1)
        posterior[left] = total
    hard = (posterior < 0).astype(np.uint8)
    return np.asarray(hard.reshape(count, -1)[:, : block.block_bits])


def gather(llr: np.ndarray, block: TransportBlock) -> np.ndarray:
    """LLRs [coded_bits] to those of the received columns [blocks, columns · Z_c]; 0: not sent."""
    padded = np.append(llr.astype(np.float64), 0.0)
    total = padded[received_positions(block)].sum(axis=0).reshape(block.blocks, -1)
    known = block.graph.information_columns * block.graph.lifting
    total[:, block.block_bits : known] = _LARGEST
    return np.asarray(total)


def box_plus(inputs: np.ndarray) -> np.ndarray:
    """What checks send for inputs [blocks, degree, Z_c]: 2 artanh of the others' Π tanh(x/2)."""
    magnitude = np.clip(np.abs(inputs), 1e-12, _LARGEST)
    logarithm = np.log(np.tanh(magnitude / 2))
    sign = np.where(inputs < 0, -1.0, 1.0)
    others = np.minimum(logarithm.sum(axis=1, keepdims=True) - logarithm, -1e-13)
    found = 2 * np.arctanh(np.exp(others))
    return np.asarray(found * sign * sign.prod(axis=1, keepdims=True))


def _received_part(block: TransportBlock) -> LiftedGraph:
    """The graph of `received_rows` alone."""
    graph = block.graph
    rows = graph.rows[: received_rows(block)]
    return LiftedGraph(graph.number, graph.lifting, rows, graph.information_columns)
