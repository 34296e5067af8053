"""Bit selection and interleaving (3GPP TS 38.212, 5.4.2), as indices for encoder and decoder."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from otfs_pipeline.coding.graph import CORE_ROWS, PUNCTURED_COLUMNS
from otfs_pipeline.coding.transport import TransportBlock


@lru_cache(maxsize=4)
def sent_positions(block: TransportBlock) -> np.ndarray:
    """For each coded bit as it is sent, which bit of all codewords it is, int64 [coded_bits].

    The array is cached and read-only. A codeword has columns · Z_c bits, those included that are
    never sent.
    """
    graph = block.graph
    size = graph.columns * graph.lifting
    buffer = PUNCTURED_COLUMNS * graph.lifting + np.arange(block.buffer_bits)
    buffer = np.roll(buffer, -block.start)
    filler = (buffer >= block.block_bits) & (buffer < graph.information_columns * graph.lifting)
    order = buffer[~filler]
    sent = []
    for index in range(block.blocks):
        selected = np.resize(order, block.sent_bits(index))
        sent.append(index * size + selected.reshape(block.bits_per_symbol, -1).T.reshape(-1))
    positions = np.concatenate(sent)
    positions.flags.writeable = False
    return positions


def received_rows(block: TransportBlock) -> int:
    """Rows of the base graph that say something: up to the last whose parity column is sent."""
    graph = block.graph
    column = sent_positions(block) // graph.lifting % graph.columns
    last = int(column.max()) - graph.information_columns + 1
    return min(max(last, CORE_ROWS), len(graph.rows))


def received_positions(block: TransportBlock) -> np.ndarray:
    """Where each bit of the decoder's columns was received, int64 [copies, blocks · columns · Z_c].

    Indices into the coded bits; `coded_bits` where there is no such copy. The columns are those of
    `received_rows`.
    """
    graph = block.graph
    sent = sent_positions(block)
    size = graph.columns * graph.lifting
    order = np.argsort(sent, kind="stable")
    position = sent[order]
    first = np.searchsorted(position, position)
    copy = np.arange(position.size) - first
    found = np.full((int(copy.max()) + 1, block.blocks * size), block.coded_bits)
    found[copy, position] = order
    kept = (graph.information_columns + received_rows(block)) * graph.lifting
    return np.ascontiguousarray(
        found.reshape(-1, block.blocks, size)[:, :, :kept].reshape(found.shape[0], -1)
    )
