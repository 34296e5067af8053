"""What the receiver takes and gives for one frame: capture, kernels and runtime follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from otfs_pipeline.link import frame
from otfs_pipeline.settings import Settings

GRAPH = "receive"
"""The name of the recorded graph."""
QUALITY = ("power", "peak", "clipped", "burst", "missing")
"""What is said of an antenna's samples."""


@dataclass(frozen=True)
class Tensor:
    """A shape, and a dtype by the name that numpy and torch have for it."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """The graph's inputs and outputs by name, in order."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def signature(settings: Settings) -> Signature:
    """For frames of Q = MN samples: the input `samples` [Q], the frame in time; all outputs.

    Of several antennas the samples are [antennas, Q], and outputs marked * are [antennas].
    """
    return Signature(
        inputs={"samples": Tensor(settings.frame_shape, "complex64")},
        outputs=received(settings) | decoded(settings) | quality(settings),
    )


def received(settings: Settings) -> dict[str, Tensor]:
    """What the receiver gives for a frame of D data symbols.

    symbols         [D]        unbiased, delay-major
    llr             [D, bits]  log-likelihood ratios, positive for 0
    bits            [D, bits]  hard decisions, 0 or 1
    noise_variance  []*        σ², from the bins that no path reaches
    mu              []         μ, the bias that the symbols were divided by
    variance        []         of the unbiased symbols; NaN unless every symbol is finite
    taps            []*        how many taps were kept
    """
    symbols, antennas = frame.data_symbols(settings), settings.frame_shape[:-1]
    by_bit = (symbols, settings.bits_per_symbol)
    return {
        "symbols": Tensor((symbols,), "complex64"),
        "llr": Tensor(by_bit, "float32"),
        "bits": Tensor(by_bit, "uint8"),
        "noise_variance": Tensor(antennas, "float32"),
        "mu": Tensor((), "float32"),
        "variance": Tensor((), "float32"),
        "taps": Tensor(antennas, "int64"),
    }


def decoded(settings: Settings) -> dict[str, Tensor]:
    """What the decoder gives for P payload bits in C code blocks; empty where frames are not coded.

    payload         [P]        decoded bits, 0 or 1
    block_errors    [C]        1 where the CRC of a code block fails or a bit is undecided, else 0
    frame_error     []         1 where any block has an error or the payload's own CRC fails
    """
    block = settings.transport_block
    if block is None:
        return {}
    return {
        "payload": Tensor((block.payload_bits,), "uint8"),
        "block_errors": Tensor((block.blocks,), "uint8"),
        "frame_error": Tensor((), "uint8"),
    }


def quality(settings: Settings) -> dict[str, Tensor]:
    """How the frame was.

    power           []*        mean energy of a sample
    peak            []*        largest real or imaginary part, its sign left out
    clipped         []*        samples whose real or imaginary part is as large
    burst           []*        largest energy of 32 samples over the median of the same delays
    missing         []*        samples that are 0, 32 delays at a time
    evm             []         RMS distance of the unbiased symbols from the nearest points
    """
    of_samples = Tensor(settings.frame_shape[:-1], "float32")
    return dict.fromkeys(QUALITY, of_samples) | {"evm": Tensor((), "float32")}
