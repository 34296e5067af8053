"""The receiver's kernels: their sources, buffers and launches; compiled where it is captured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foundryc.cuda.kernels import Kernel, Loader, compile_source
from otfs_pipeline.link.slepian import channel_shares
from otfs_pipeline.link.smoothing import is_smoothed
from otfs_pipeline.receiver import pilot
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.macros import macros
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import Tensor, received


class Source(NamedTuple):
    """The files that a kernel is made of, and its buffers in the order of its parameters."""

    files: tuple[str, ...]
    parameters: tuple[str, ...]


class Launch(NamedTuple):
    """Blocks, threads a block, and bytes of dynamic shared memory a block."""

    blocks: int
    threads: int
    shared: int


KERNELS = {
    "read_window": Source(
        ("common.cuh", "window.cu"),
        ("samples", "taps_table", "tap_energy", "noise", "mailbox"),
    ),
    "select_taps": Source(
        ("common.cuh", "rank.cuh", "groups.cuh", "select.cu"),
        ("taps_table", "tap_energy", "noise", "groups", "noise_variance", "taps"),
    ),
    "equalize": Source(
        (
            "common.cuh",
            "cluster.cuh",
            "layout.cuh",
            "shared.cuh",
            "cluster_exchange.cuh",
            "products.cuh",
            "iteration.cuh",
            "setup.cuh",
            "equalize.cu",
        ),
        ("samples", "taps_table", "groups", "noise_variance", "equalized", "moments", "mailbox"),
    ),
    "demap": Source(
        ("common.cuh", "demap.cu"),
        ("equalized", "moments", "symbols", "llr", "bits", "mu", "variance"),
    ),
}
"""In the order in which they run, for frames with a point pilot and without a prefix."""
_EQUALIZE = KERNELS["equalize"]
SPREAD = {
    "read_window": Source(
        ("common.cuh", "chirp.cuh", "correlate.cu"), KERNELS["read_window"].parameters
    ),
    "select_taps": KERNELS["select_taps"],
    "exchange_pilot": Source(
        ("common.cuh", "chirp.cuh", "exchange.cu"),
        ("samples", "taps_table", "groups", "with_point"),
    ),
    "equalize": Source(_EQUALIZE.files, ("with_point", *_EQUALIZE.parameters[1:])),
    "demap": KERNELS["demap"],
}
"""With a spread pilot."""
PREFIX = {
    "read_window": Source(
        ("common.cuh", "sequences.cu"), ("samples", "reading", "sequences", "noise", "mailbox")
    ),
    "select_taps": Source(
        ("common.cuh", "rank.cuh", "groups.cuh", "select_delays.cu"),
        ("sequences", "noise", "mixing", "share", "left", "delay_energy", "taps_table", "groups",
         "noise_variance", "taps"),
    ),
    "equalize": _EQUALIZE,
    "demap": KERNELS["demap"],
}  # fmt: skip
"""With a prefix."""
_SELECT = PREFIX["select_taps"]
SMOOTHED = {
    "read_window": PREFIX["read_window"],
    "smooth_delays": Source(("common.cuh", "smooth.cu"), ("sequences", "smoothing", "smoothed")),
    "select_taps": Source(_SELECT.files, ("smoothed", *_SELECT.parameters[1:])),
    "equalize": _EQUALIZE,
    "demap": KERNELS["demap"],
}
"""With a prefix and a sinc."""
WITHOUT_CLUSTERS = {
    "cluster.cuh": "mailbox.cuh",
    "cluster_exchange.cuh": "mailbox_exchange.cuh",
}
"""The files that stand for others where a GPU has no clusters."""


PRECONDITIONED = (
    "common.cuh",
    "cluster.cuh",
    "layout.cuh",
    "shared_preconditioned.cuh",
    "cluster_exchange.cuh",
    "overlap.cuh",
    "products.cuh",
    "iteration.cuh",
    "setup.cuh",
    "fourier.cuh",
    "approximate.cuh",
    "precondition.cuh",
    "equalize_preconditioned.cu",
)
"""The files of `equalize` where it has a preconditioner."""


def kernels(settings: Settings) -> dict[str, Source]:
    """Those of a link, in the order in which they run."""
    if settings.waveform == "cp":
        return SMOOTHED if is_smoothed(settings) else PREFIX
    return SPREAD if settings.pilot == "spread" else KERNELS


def files(geometry: Geometry, kernel: str) -> list[str]:
    """The files that a kernel is made of."""
    if kernel == "equalize" and geometry.preconditioned:
        return list(PRECONDITIONED)
    other = {} if geometry.platform.clusters else WITHOUT_CLUSTERS
    return [other.get(file, file) for file in kernels(geometry.settings)[kernel].files]


def constants(settings: Settings) -> dict[str, np.ndarray]:
    """The tables that the kernels read: of frames with a prefix those of `pilot.tables`."""
    tables = pilot.tables(settings) if settings.waveform == "cp" else {}
    return {name: np.ascontiguousarray(value) for name, value in tables.items()}


def buffers(geometry: Geometry) -> dict[str, Tensor]:
    """All that the kernels write: scratch, then the receiver's outputs.

    taps_table [2D+1, window] taps h[b, a], 0 where dropped; tap_energy their |h|²; noise one sum a
    block; with_point [MN] samples without what a spread pilot adds to a point; sequences and, of a
    sinc, smoothed [rows, window], and delay_energy [window] of frames with a prefix: these have a
    first dimension of the antennas where there are several. groups the number of delay groups,
    then each one's first delay and how many delays are before it, the latter once more at the end;
    equalized [MN] x̂ in time, data samples only; moments [N] two sums a period; mailbox:
    mailbox_exchange.cuh.
    """
    s = geometry.settings
    antennas = s.frame_shape[:-1]
    table = (*antennas, 2 * s.doppler_range + 1, s.window_delays)
    scratch = {"taps_table": Tensor(table, "complex64")}
    if s.waveform == "cp":
        rows = channel_shares(s).size
        scratch["sequences"] = Tensor((*antennas, rows, s.window_delays), "complex64")
        if is_smoothed(s):
            scratch["smoothed"] = scratch["sequences"]
        scratch["delay_energy"] = Tensor((*antennas, s.window_delays), "float32")
    else:
        scratch["tap_energy"] = Tensor(table, "float32")
    if s.pilot == "spread":
        scratch["with_point"] = Tensor(s.frame_shape, "complex64")
    scratch |= {
        "noise": Tensor((*antennas, geometry.window_blocks), "float32"),
        "groups": Tensor((1 + 2 * (geometry.delays + 1),), "int32"),
        "equalized": Tensor((s.q,), "complex64"),
        "moments": Tensor((s.n,), "complex64"),
        "mailbox": Tensor((geometry.mailbox_slots, 4), "int32"),
    }
    return scratch | received(s)


def launches(geometry: Geometry) -> dict[str, Launch]:
    """How each kernel is launched."""
    s = geometry.settings
    known = {
        "read_window": Launch(s.antennas * geometry.window_blocks, 32 * geometry.window_rows, 0),
        "smooth_delays": Launch(s.antennas * geometry.window_blocks, 256, 0),
        "select_taps": Launch(1, 1024, 0),
        "exchange_pilot": Launch(s.antennas * -(-s.m // 32), 256, 0),
        "equalize": Launch(s.n * geometry.cluster, geometry.threads, geometry.shared_bytes),
        "demap": Launch(geometry.data_blocks, 256, 0),
    }
    return {name: known[name] for name in kernels(s)}


def text(file: str) -> str:
    """Contents of a source file beside this one."""
    return (Path(__file__).parent / file).read_text(encoding="utf-8")


def images(geometry: Geometry, architecture: str) -> dict[str, bytes]:
    """Kernel -> cubin for `architecture` (such as sm_90a); no GPU is needed.

    FoundryError with the compiler's log where it fails.
    """
    return {
        name: compiled(
            macros(geometry) + "".join(map(text, files(geometry, name))), "otfs.cu", architecture
        )
        for name in kernels(geometry.settings)
    }


@cache
def compiled(source: str, name: str, architecture: str) -> bytes:
    """`compile_source`, once for all graphs that have the kernels."""
    return compile_source(source, name, architecture)


class Program:
    """The kernels of `images`: in the current context, or what else `load` makes of them."""

    def __init__(
        self, geometry: Geometry, images: Mapping[str, bytes], load: Loader = Kernel.load
    ) -> None:
        """FoundryError where the device cannot load them."""
        self.launches = launches(geometry)
        self.parameters = {
            name: source.parameters for name, source in kernels(geometry.settings).items()
        }
        self.kernels = {
            name: load(images[name], name, launch.shared) for name, launch in self.launches.items()
        }

    def launch(self, name: str, addresses: Mapping[str, int], stream: int) -> None:
        """Queue a kernel on a CUstream; `addresses` are its buffers' on the device, by name."""
        blocks, threads, shared = self.launches[name]
        arguments = [addresses[buffer] for buffer in self.parameters[name]]
        self.kernels[name].launch((blocks, 1, 1), (threads, 1, 1), arguments, stream, shared)
