"""The decoder in torch, alone against belief propagation, and in the receiver's captured graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from foundryc.recorder import Recorder
from foundryrt.errors import UsageError
from otfs_pipeline import capture
from otfs_pipeline.coding import encode, rate_matching, reference
from otfs_pipeline.coding.transport import TransportBlock
from otfs_pipeline.frames import source, writing
from otfs_pipeline.link import frame, transmit
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.receiver.decoder import Decoder, box_plus, messages, tables
from otfs_pipeline.study import coded

VECTORS = dict(np.load(Path(__file__).parents[1] / "unit" / "data" / "ldpc_vectors.npz"))
# Few iterations: each is thousands of calls on the tape, and 14 dB needs no more.
LINK = capture.Settings(grid="64x32", modulation=4, code_rate=0.5, decoder_iterations=6)


def decode(llr: np.ndarray, block: TransportBlock, iterations: int = 32) -> dict[str, np.ndarray]:
    constants = {name: torch.from_numpy(value) for name, value in tables(block).items()}
    found = Decoder(block, iterations, constants)(torch.from_numpy(llr.astype(np.float32)))
    return {name: value.numpy() for name, value in found.items()}


def noisy(block: TransportBlock, sigma: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A payload, and the LLRs of its coded bits as BPSK with noise."""
    rng = np.random.default_rng(seed)
    payload = rng.integers(0, 2, block.payload_bits, dtype=np.uint8)
    sent = 1.0 - 2.0 * encode.encode(payload, block)
    return payload, 2 * (sent + sigma * rng.standard_normal(sent.shape)) / sigma**2


def test_box_plus_is_close_to_the_exact_one() -> None:
    low, high = torch.rand(2, 10_000, generator=torch.Generator().manual_seed(1)) * 12
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    exact = 2 * torch.atanh(torch.tanh(low.double() / 2) * torch.tanh(high.double() / 2))
    assert (box_plus(low, high) - exact).abs().max() < 0.15
    assert (box_plus(low, high) >= 0).all()
    assert (box_plus(low, high) <= low).all()


def test_messages_are_those_of_belief_propagation_nearly() -> None:
    inputs = torch.randn(3, 3, 50, generator=torch.Generator().manual_seed(2)) * 4
    sent = messages(inputs)
    exact = reference.box_plus(inputs.double().numpy())
    assert (torch.sign(sent).numpy() == np.sign(exact)).mean() > 0.97
    # To the least reliable input all others speak; to the others it speaks too, which is less.
    least = inputs.abs().argmin(1, keepdim=True)
    got, wanted = sent.gather(1, least).numpy(), np.take_along_axis(exact, least.numpy(), 1)
    assert np.abs(got - wanted).max() < 0.15
    assert (np.abs(sent.numpy()) <= np.abs(exact) + 0.2).all()


def test_a_check_tells_its_only_erased_input_and_no_other() -> None:
    one = torch.tensor([[0.0, 5.0, -6.0, 7.0]]).unsqueeze(-1)
    assert messages(one)[0, :, 0].tolist() == pytest.approx([-4.4, 0, 0, 0], abs=0.7)
    two = torch.tensor([[0.0, 5.0, 0.0, 7.0]]).unsqueeze(-1)
    assert not messages(two).any()


@pytest.mark.parametrize("index", range(len(VECTORS["decoded"])))
def test_blocks_that_sionna_decodes_are_decoded(index: int) -> None:
    k, n, _ = VECTORS["decoded"][index]
    block = TransportBlock(int(k) - 16, int(n), 1, k / n)
    words = np.unpackbits(VECTORS[f"word{index}"], axis=1, count=int(k))
    theirs = np.unpackbits(VECTORS[f"decided{index}"], axis=1, count=int(k))
    wrong = [
        bool((decode(llr / 8, block)["payload"] != word[:-16]).any())
        for llr, word in zip(VECTORS[f"llr{index}"], words, strict=True)
    ]
    assert sum(wrong) <= (theirs != words).any(axis=1).sum() + 2


@pytest.mark.parametrize(
    ("block", "sigma"),
    [
        (TransportBlock.of(3000, 4, 0.5), 0.7),
        (TransportBlock.of(2400, 6, 0.85), 0.4),
        (TransportBlock(40, 600, 2, 0.1), 1.6),  # bits that come twice
        (TransportBlock.of(20_000, 4, 0.5), 0.7),  # two code blocks
        (TransportBlock(1000, 3000, 2, 0.5, 3), 0.7),  # another redundancy version
    ],
)
def test_noisy_frames_are_delivered(block: TransportBlock, sigma: float) -> None:
    payload, llr = noisy(block, sigma, 1)
    assert ((llr < 0) != encode.encode(payload, block)).mean() > 0.003
    got = decode(llr, block, 20)
    np.testing.assert_array_equal(got["payload"], payload)
    assert got["block_errors"].tolist() == [0] * block.blocks
    assert got["frame_error"] == 0


def test_checksums_name_the_block_that_is_wrong() -> None:
    block = TransportBlock.of(40_000, 4, 0.5)
    assert block.blocks == 3
    payload, llr = noisy(block, 0.6, 2)
    first = block.sent_bits(0)
    llr[first : first + block.sent_bits(1)] *= -1
    got = decode(llr, block, 10)
    assert got["block_errors"].tolist() == [0, 1, 0]
    assert got["frame_error"] == 1
    part = block.block_bits - 24
    wrong = got["payload"] != payload
    assert wrong[part : 2 * part].any() and not wrong[:part].any() and not wrong[2 * part :].any()


def test_the_frames_own_checksum_sees_blocks_in_another_order() -> None:
    # Each block's own CRC is right, and the payload is not.
    block = TransportBlock.of(40_000, 4, 0.5)
    payload, _ = noisy(block, 0.6, 3)
    segments = encode.segment(payload, block)[[1, 0, 2]]
    words = encode.codewords(segments, block.graph)
    sent = words.reshape(-1)[rate_matching.sent_positions(block)]
    got = decode(20.0 - 40.0 * sent, block, 2)
    assert got["block_errors"].tolist() == [0, 0, 0]
    assert got["frame_error"] == 1


def test_bits_that_nothing_is_known_of_are_errors() -> None:
    block = TransportBlock.of(600, 4, 0.5)
    got = decode(np.zeros(600), block, 2)
    assert not got["payload"].any()  # whose CRC is right
    assert got["block_errors"].tolist() == [1] and got["frame_error"] == 1


def test_noise_alone_fails_every_checksum() -> None:
    block = TransportBlock.of(20_000, 4, 0.5)
    got = decode(np.random.default_rng(4).standard_normal(20_000), block, 4)
    assert got["block_errors"].all() and got["frame_error"] == 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coded") / "coded.fdy"
    with Recorder(target="host", workload="otfs", settings=asdict(LINK)) as recorder:
        capture.record(recorder, LINK)
        recorder.save(path)
    return path


def run(bundle: Path, *options: object) -> dict:
    command = "import sys; from foundryrt.cli import main; sys.argv[0] = 'foundryrt'; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "run", bundle, "--json", *map(str, options)],
        check=True, capture_output=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads(done.stdout)


def test_the_captured_receiver_delivers_the_payload(bundle: Path, tmp_path: Path) -> None:
    report = run(bundle, "--frames", 4, "--snr", 14, "--seed", 7, "--bits-out", tmp_path / "bits")
    coding = report["coding"]
    assert (coding["blocks"], coding["block_errors"], coding["frame_errors"]) == (4, 0, 0)
    assert coding["uncoded_ber"] > 1e-3
    assert (report["ber"], report["ber_frames"]) == (0, 4)
    assert report["payload_bits"] == frame.payload_bits(LINK) < coding["coded_bits"]
    sent = [np.packbits(transmit.payload(7, index, LINK)) for index in range(4)]
    assert (tmp_path / "bits").read_bytes() == b"".join(bits.tobytes() for bits in sent)


def test_recorded_frames_are_decoded_and_only_good_ones_count(bundle: Path, tmp_path: Path) -> None:
    frames = list(source.synthetic(LINK, 14.0, 7, 3))
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(LINK.q) + 1j * rng.standard_normal(LINK.q)
    frames[1].samples[:] += 3 * noise
    writing.write_recording(str(tmp_path / "link"), frames, LINK, 7)
    report = run(bundle, "--iq", tmp_path / "link.sigmf-meta")
    assert (report["frames"], report["coding"]["frame_errors"]) == (3, 1)
    assert report["coding"]["uncoded_ber"] > 0.1
    assert report["ber"] > 0


def test_the_study_counts_errors_before_and_after_the_decoder() -> None:
    rng = np.random.default_rng(1)
    found = coded.decoding(LINK, VEHICULAR_A, [-3.0, 16.0], rng)
    assert found["blocks"] == [1, 0] and found["frames"] == [1, 0]
    assert found["uncoded"][0] > 0.1 > found["uncoded"][1] > 0


def test_the_rate_must_fit_the_frame() -> None:
    with pytest.raises(UsageError, match=r"code-rate 0\.05"):
        capture.Settings(code_rate=0.05)
    with pytest.raises(UsageError, match="too small for its checksums"):
        capture.Settings(grid="24x32", modulation=4, nu_max=100.0, guard=23, code_rate=0.9)
