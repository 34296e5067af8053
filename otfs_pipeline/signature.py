"""What the receiver takes and gives for one frame: capture, kernels and runtime follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.align import seen_symbols
from otfs_pipeline.link import frame
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.pulse import pulse_reach
from otfs_pipeline.waveform.slot import slot

GRAPH = "receive"
"""The name of the recorded graph."""
WAVEFORM_GRAPH = "receive_waveform"
"""The one with the front end before it, which bundles for cuda have for links of one antenna."""
FRONT = ("given", "delay", "carrier", "mean_carrier", "dc_re", "dc_im", "image_re", "image_im",
         "rms")  # fmt: skip
"""What the front end says of a frame, in this order.

given: 1, 0 where samples are missing or there is no pilot, 2 where there is no frame; delay: by how
many samples it comes later than the preamble was found; carrier, mean_carrier: the offset that was
taken off, and the mean of frames, in Hz; then DC, κ (front/balance.py) and the rms of the data.
"""
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


def waveform_signature(settings: Settings) -> Signature:
    """Of WAVEFORM_GRAPH, whose outputs are those of `signature` and two more.

    waveform        [S]        samples of a slot, two a symbol, those of `waveform_span`
    doubtful        []         1: give the frame on only where its pilot is whole; else 0
    frame           [MN]       what the receiver takes; zeros where no frame is given on
    front           [9]        FRONT
    """
    first, last = waveform_span(settings)
    return Signature(
        inputs={
            "waveform": Tensor((last - first,), "complex64"),
            "doubtful": Tensor((), "uint8"),
        },
        outputs=signature(settings).outputs
        | {
            "frame": Tensor(settings.frame_shape, "complex64"),
            "front": Tensor((len(FRONT),), "float32"),
        },
    )


def waveform_span(settings: Settings) -> tuple[int, int]:
    """First sample of a slot that the front end reads and the one after the last, two a symbol.

    From where the preamble was found; whatever the timing of the frame is.
    """
    place, seen = slot(settings), seen_symbols(settings)
    reach = place.half + pulse_reach(settings) + 2 * seen
    return OVERSAMPLING * (place.centre - reach), OVERSAMPLING * (place.centre + reach) + 1


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
