"""What the receiver takes and gives where the graph has the front end, too."""

from __future__ import annotations

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.align import seen_symbols
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import Signature, Tensor, signature
from otfs_pipeline.waveform.pulse import pulse_reach
from otfs_pipeline.waveform.slot import slot

WAVEFORM_GRAPH = "receive_waveform"
"""The name of the graph, which bundles for cuda have."""
FRONT = ("given", "delay", "carrier", "mean_carrier", "dc_re", "dc_im", "image_re", "image_im",
         "rms")  # fmt: skip
"""What the front end says of a frame, in this order.

given: 1, 0 where samples are missing or there is no pilot, 2 where there is no frame; delay: by how
many samples it comes later than the preamble was found; carrier, mean_carrier: the offset that was
taken off, and the mean of frames, in Hz; then DC, κ (front/balance.py) and the rms of the data.
"""


def waveform_signature(settings: Settings) -> Signature:
    """Of WAVEFORM_GRAPH, whose outputs are those of `signature` and two more.

    waveform        [S]        samples of a slot, two a symbol, those of `waveform_span`; of several
                               antennas [S, antennas]
    doubtful        []         1: give the frame on only where its pilot is whole; else 0
    frame           [MN]*      what the receiver takes; zeros where no frame is given on
    front           [9]*       FRONT
    Of several antennas those marked * have a first dimension of them.
    """
    first, last = waveform_span(settings)
    return Signature(
        inputs={
            "waveform": Tensor(settings.stream_shape(last - first), "complex64"),
            "doubtful": Tensor((), "uint8"),
        },
        outputs=signature(settings).outputs
        | {
            "frame": Tensor(settings.frame_shape, "complex64"),
            "front": Tensor((*settings.frame_shape[:-1], len(FRONT)), "float32"),
        },
    )


def waveform_span(settings: Settings) -> tuple[int, int]:
    """First sample of a slot that the front end reads and the one after the last, two a symbol.

    From where the preamble was found; whatever the timing of the frame is.
    """
    place = slot(settings)
    reach = place.half + seen_symbols(settings) + pulse_reach(settings) + 1
    return OVERSAMPLING * (place.centre - reach), OVERSAMPLING * (place.centre + reach) + 1
