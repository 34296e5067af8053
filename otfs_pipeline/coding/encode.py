"""The NR LDPC encoder: payload bits to the coded bits of a frame (3GPP TS 38.212, 5.2.2 to 5.5)."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.coding import crc
from otfs_pipeline.coding.graph import CORE_ROWS, LiftedGraph
from otfs_pipeline.coding.rate_matching import sent_positions
from otfs_pipeline.coding.transport import TransportBlock


def encode(payload: np.ndarray, block: TransportBlock) -> np.ndarray:
    """Payload uint8 [payload_bits] to coded bits as they are sent, uint8 [coded_bits]."""
    words = codewords(segment(payload, block), block.graph)
    return np.asarray(words.reshape(-1)[sent_positions(block)])


def segment(payload: np.ndarray, block: TransportBlock) -> np.ndarray:
    """Code blocks with their CRCs and filler bits (0), uint8 [blocks, information columns · Z_c].

    ValueError where the payload has another length.
    """
    if payload.shape != (block.payload_bits,):
        raise ValueError(f"segment: {payload.shape} payload bits, need ({block.payload_bits},)")
    whole = np.concatenate([payload, crc.check_bits(block.check, payload)])
    parts = whole.reshape(block.blocks, -1)
    if block.blocks > 1:
        parts = np.concatenate([parts, crc.check_bits("24B", parts)], axis=1)
    graph = block.graph
    out = np.zeros((block.blocks, graph.information_columns * graph.lifting), np.uint8)
    out[:, : block.block_bits] = parts
    return out


def codewords(messages: np.ndarray, graph: LiftedGraph) -> np.ndarray:
    """Messages uint8 [blocks, information columns · Z_c] to codewords [blocks, columns, Z_c]."""
    known = graph.information_columns
    words = np.zeros((messages.shape[0], graph.columns, graph.lifting), np.uint8)
    words[:, :known] = messages.reshape(-1, known, graph.lifting)
    # In the sum of the core rows all parity columns cancel but one circulant of the first.
    first = [
        entry.shift for row in graph.rows[:CORE_ROWS] for entry in row if entry.column == known
    ]
    (alone,) = [shift for shift in first if first.count(shift) % 2]
    total = np.bitwise_xor.reduce([_sum(words, graph, row) for row in range(CORE_ROWS)])
    words[:, known] = np.roll(total, alone, axis=-1)
    # Each row then leaves one parity column, the next, unknown.
    for row in range(CORE_ROWS - 1):
        words[:, known + row + 1] = _sum(words, graph, row)
    for row in range(CORE_ROWS, len(graph.rows)):
        words[:, known + row] = _sum(words, graph, row)
    return words


def parity_checks(words: np.ndarray, graph: LiftedGraph) -> np.ndarray:
    """Sums of the checks of codewords [blocks, columns, Z_c], uint8 [blocks, rows, Z_c]: all 0."""
    return np.stack([_sum(words, graph, row) for row in range(len(graph.rows))], axis=1)


def _sum(words: np.ndarray, graph: LiftedGraph, row: int) -> np.ndarray:
    """Sum over GF(2) of a row's columns, [blocks, Z_c]; columns that are not known yet are 0."""
    terms = [np.roll(words[:, e.column], -e.shift, axis=-1) for e in graph.rows[row]]
    return np.asarray(np.bitwise_xor.reduce(terms))
