"""The NR LDPC code: tables, lifting, CRCs, rate matching and encoder, against Sionna's results."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from otfs_pipeline.coding import crc, encode, reference
from otfs_pipeline.coding.graph import CORE_ROWS, LiftedGraph, lifted, lifting_sizes
from otfs_pipeline.coding.rate_matching import received_positions, received_rows, sent_positions
from otfs_pipeline.coding.transport import TransportBlock, payload_size

VECTORS = dict(np.load(Path(__file__).parent / "data" / "ldpc_vectors.npz"))
CASES = [(int(coded), int(bits), float(rate)) for coded, bits, rate in VECTORS["cases"]]


@pytest.mark.parametrize(("number", "rows", "columns", "entries"), [(1, 46, 68, 316),
                                                                   (2, 42, 52, 197)])  # fmt: skip
def test_the_tables_have_the_standards_dimensions(
    number: int, rows: int, columns: int, entries: int
) -> None:
    graph = lifted(number, 384)
    assert (len(graph.rows), graph.columns) == (rows, columns)
    assert sum(map(len, graph.rows)) == entries
    assert {len(row) for row in graph.rows} == (
        {3, 4, 5, 6, 7, 8, 9, 10, 19} if number == 1 else {3, 4, 5, 6, 8, 10}
    )
    for index, row in enumerate(graph.rows):
        assert [e.column for e in row] == sorted({e.column for e in row})
        if index >= CORE_ROWS:  # a parity column of its own, not turned
            own = graph.information_columns + index
            assert [e.shift for e in row if e.column >= own] == [0]
            assert row[-1].column == own


def test_there_are_51_lifting_sizes() -> None:
    sizes = lifting_sizes()
    assert len(sizes) == 51
    assert (min(sizes), max(sizes)) == (2, 384)
    assert [sizes[z] for z in (2, 3, 5, 7, 9, 11, 13, 15, 352, 384)] == [
        0, 1, 2, 3, 4, 5, 6, 7, 5, 1
    ]  # fmt: skip
    with pytest.raises(ValueError, match="there is none"):
        lifted(1, 17)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("lifting", [320, 384, 288, 352, 208])
def test_large_graphs_have_no_cycles_of_length_4(number: int, lifting: int) -> None:
    # Two rows and two columns close a cycle where their shifts cancel. The standard's tables
    # avoid it: a wrong shift is likely to make one.
    graph = lifted(number, lifting)
    shift = [{e.column: e.shift for e in row} for row in graph.rows]
    cycles = 0
    for i, upper in enumerate(shift):
        for lower in shift[:i]:
            turns = [(upper[c] - lower[c]) % lifting for c in upper.keys() & lower.keys()]
            cycles += len(turns) - len(set(turns))
    assert cycles == 0


@pytest.mark.parametrize("number", [1, 2])
def test_codewords_of_every_lifting_size_fulfil_all_checks(number: int) -> None:
    rng = np.random.default_rng(number)
    for lifting in lifting_sizes():
        graph = lifted(number, lifting)
        size = graph.information_columns * lifting
        messages = rng.integers(0, 2, (2, size), dtype=np.uint8)
        words = encode.codewords(messages, graph)
        assert not encode.parity_checks(words, graph).any(), lifting
        np.testing.assert_array_equal(words.reshape(2, -1)[:, :size], messages)
        words[0, 0, 0] ^= 1
        assert encode.parity_checks(words, graph)[0].any()


@pytest.mark.parametrize("name", ["24A", "24B", "16"])
def test_crcs_are_remainders(name: str) -> None:
    # Long division, bit by bit.
    generator = {"24A": 0x1864CFB, "24B": 0x1800063, "16": 0x11021}[name]
    bits = np.random.default_rng(2).integers(0, 2, 77, dtype=np.uint8)
    width = crc.length(name)
    value = int("".join(map(str, bits)), 2) << width
    while value >> width:
        value ^= generator << (value.bit_length() - width - 1)
    found = crc.check_bits(name, bits)
    assert int("".join(map(str, found)), 2) == value
    word = np.concatenate([bits, found])
    assert crc.passes(name, word)
    word[5] ^= 1
    assert not crc.passes(name, word)


@pytest.mark.parametrize("index", range(len(CASES)))
def test_coded_bits_are_sionnas(index: int) -> None:
    coded, bits, rate = CASES[index]
    block = TransportBlock.of(coded, bits, rate)
    assert (block.payload_bits, block.block_bits, block.blocks) == tuple(VECTORS[f"sizes{index}"])
    payload = np.random.default_rng([index]).integers(0, 2, block.payload_bits, dtype=np.uint8)
    sent = np.packbits(encode.encode(payload, block)).tobytes()
    assert hashlib.sha256(sent).digest() == VECTORS[f"coded{index}"].tobytes()


def test_the_cases_cover_both_graphs_and_several_blocks() -> None:
    blocks = [TransportBlock.of(*case) for case in CASES]
    assert {(b.base_graph, b.blocks > 1) for b in blocks} == {
        (1, False), (1, True), (2, False), (2, True)
    }  # fmt: skip
    assert {b.check for b in blocks} == {"16", "24A"}


@profile(max_examples=30, deadline=None)
@given(st.integers(50, 15_000), st.sampled_from([2, 4, 6]), st.floats(0.1, 0.9), st.integers(0, 3))
def test_any_version_of_any_size_can_be_read_back(
    symbols: int, bits: int, rate: float, version: int
) -> None:
    coded = symbols * bits
    block = TransportBlock(payload_size(coded, rate), coded, bits, rate, version)
    assert sum(map(block.sent_bits, range(block.blocks))) == coded
    sent, received = sent_positions(block), received_positions(block)
    assert sent.shape == (coded,)
    # Each coded bit is read once, by the bit of the codeword that it is.
    real = received != coded
    assert np.array_equal(np.sort(received[real]), np.arange(coded))
    columns = block.graph.information_columns + received_rows(block)
    size = block.graph.columns * block.graph.lifting
    kept = columns * block.graph.lifting
    at = np.broadcast_to(np.arange(received.shape[1]), received.shape)[real]
    np.testing.assert_array_equal(sent[received[real]], at // kept * size + at % kept)
    # Punctured columns and filler bits are not sent.
    assert ((sent % size) >= 2 * block.graph.lifting).all()
    known = block.graph.information_columns * block.graph.lifting
    assert not ((sent % size >= block.block_bits) & (sent % size < known)).any()


def test_repeated_bits_add_up() -> None:
    # More bits are sent than the circular buffer has: some come twice.
    block = TransportBlock(24, 600, 2, 0.1)
    assert received_positions(block).shape[0] == 2
    payload = np.random.default_rng(3).integers(0, 2, 24, dtype=np.uint8)
    llr = 1.0 - 2.0 * encode.encode(payload, block)
    assert set(np.abs(reference.gather(llr, block)).ravel()) == {0.0, 1.0, 2.0, 30.0}
    np.testing.assert_array_equal(reference.decode(llr, block)[0, :24], payload)


@pytest.mark.parametrize("index", range(len(VECTORS["decoded"])))
def test_belief_propagation_decides_as_sionnas(index: int) -> None:
    k, n, _ = VECTORS["decoded"][index]
    block = _raw(int(k), int(n))
    words = np.unpackbits(VECTORS[f"word{index}"], axis=1, count=int(k))
    theirs = np.unpackbits(VECTORS[f"decided{index}"], axis=1, count=int(k))
    ours = np.concatenate([reference.decode(row / 8, block) for row in VECTORS[f"llr{index}"]])
    failed = (theirs != words).any(axis=1)
    assert 0 < failed.sum() < len(words)
    np.testing.assert_array_equal((ours != words).any(axis=1), failed)
    np.testing.assert_array_equal(ours[~failed], theirs[~failed])


def _raw(k: int, n: int) -> TransportBlock:
    """A block of k bits with its CRC in them, sent as n bits without interleaving."""
    return TransportBlock(k - 16, n, 1, k / n)


def test_blocks_that_the_standard_does_not_have() -> None:
    with pytest.raises(ValueError, match="redundancy version 4"):
        TransportBlock(24, 100, 2, 0.5, 4)
    with pytest.raises(ValueError, match="no whole symbols"):
        TransportBlock(24, 101, 2, 0.5)
    with pytest.raises(ValueError, match="do not fill"):
        TransportBlock(8449, 16_000, 2, 0.5)
    with pytest.raises(ValueError, match="payload bits, need"):
        encode.encode(np.zeros(3, np.uint8), TransportBlock(24, 100, 2, 0.5))
    assert isinstance(TransportBlock(24, 100, 2, 0.5).graph, LiftedGraph)
