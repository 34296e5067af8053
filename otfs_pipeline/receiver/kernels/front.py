"""The front end on the GPU: constants, buffers, launches of align.cu, compress.cu and fold.cu.

`tracked` [8] float64 is what is known of the radio: of the data's samples, with weights that fall
from frame to frame, the count, Σx, Σx² (real and imaginary parts) and Σ|x|²; then the mean turn of
the carrier in a Doppler period. Of several antennas [antennas, 8], where the first one's has that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from foundryc.cuda.kernels import Kernel, Launchable, Loader
from otfs_pipeline.front import OVERSAMPLING, align, balance
from otfs_pipeline.front.compress import most_astray, path_delays
from otfs_pipeline.front.signature import FRONT, waveform_span
from otfs_pipeline.front.synchronize import CARRIER_MEMORY
from otfs_pipeline.receiver.kernels.launch import Tensors, launch, made
from otfs_pipeline.receiver.kernels.platforms import Platform
from otfs_pipeline.receiver.kernels.program import Launch, compiled, text
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import Tensor
from otfs_pipeline.waveform.pulse import centre_sample, pulse_reach, pulse_spectrum, smooth
from otfs_pipeline.waveform.slot import slot

PARAMETERS = {
    "measure_burst": ("waveform", "data_samples", "of_blocks"),
    "balance": ("of_blocks", "doubtful", "tracked", "correction"),
    "read_pulses": ("waveform", "correction", "pulse_taps", "taper", "pulses"),
    "profile": ("pulses", "correction", "part_of", "pilot", "parts", "of_tiles"),
    "weigh_timings": ("pilot", "of_tiles", "spill", "cost"),
    "decide": ("pilot", "parts", "of_tiles", "cost", "part_floor", "correction", "doubtful",
               "tracked", "plan", "front"),
    "fold": ("waveform", "correction", "pulse_taps", "plan", "frame"),
}  # fmt: skip
"""The buffers of each kernel, which run in this order, for a link with a point pilot."""
# With a spread one these take the place of `read_pulses` and `profile`.
_COMPRESSED = {
    "read_pulses": (*PARAMETERS["read_pulses"][:-1], "filtered"),
    "compress": ("filtered", "pulses"),
    "profile": PARAMETERS["profile"],
    "weigh_windows": ("pilot", "inside"),
    "keep_paths": ("pulses", "inside", "pilot", "of_tiles"),
}
FILES = {
    "align.cu": ("measure_burst", "balance", "read_pulses", "profile", "weigh_timings", "decide"),
    "compress.cu": ("compress", "weigh_windows", "keep_paths"),
    "fold.cu": ("fold",),
}
"""The kernels of each source file."""
# Blocks that measure a burst at most, and samples that are worth one.
_MEASURE_BLOCKS, _MEASURED = 128, 2048
# Delays of a block of `compress`.
_COMPRESSED_DELAYS = 640
# Taps of the pulse that a block holds at once.
_CHUNK = 128
# The largest float32, which no timing costs.
_LARGEST = 3e38


def parameters(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The buffers of each kernel of a link, in the order in which they run."""
    if settings.pilot == "point":
        return PARAMETERS
    given = list(PARAMETERS.items())
    return dict([*given[:2], *_COMPRESSED.items(), *given[4:]])


def files(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Of FILES those of a link."""
    run = parameters(settings)
    return {file: names for file, names in FILES.items() if names[0] in run}


@dataclass(frozen=True)
class Sizes:
    """Of a link's front end; all in samples at two a symbol but where another unit is named."""

    settings: Settings

    @property
    def reach(self) -> int:
        """After which the pulse has died away, on each side."""
        return OVERSAMPLING * pulse_reach(self.settings)

    @property
    def taps(self) -> int:
        return 2 * self.reach + 1

    @property
    def origin(self) -> int:
        """The sample of the window at which the preamble is taken to begin."""
        return -waveform_span(self.settings)[0]

    @property
    def measure_blocks(self) -> int:
        samples = balance.burst_core(self.settings)[1]
        return min(_MEASURE_BLOCKS, -(-samples // _MEASURED))

    @property
    def periods(self) -> int:
        """Pulses of the pilot in a burst."""
        return int(align.pilot_chips(self.settings)[0].size)

    @property
    def delays(self) -> int:
        """Delays that are looked at, at four a symbol."""
        return 2 * align.DENSE * align.seen_symbols(self.settings) + 1

    @property
    def filtered(self) -> int:
        """Delays that are filtered for these."""
        return 2 * align.DENSE * align.filter_reach(self.settings) + 1

    @property
    def compress_tiles(self) -> int:
        """Blocks of `compress` for delays of a period that are whole symbols apart."""
        return -(-self.delays // (align.DENSE * _COMPRESSED_DELAYS))

    @property
    def candidates(self) -> int:
        """Timings of one phase, a symbol apart."""
        return 2 * align.seen_symbols(self.settings) + 1

    @property
    def turns(self) -> int:
        """Frames' durations by which a sample of the burst may lie beside the frame."""
        if self.settings.waveform == "cp":
            return 0
        return slot(self.settings).half // self.settings.q + 1


def tracked(settings: Settings) -> Tensor:
    """State of the graph; zeros at first."""
    return Tensor((*settings.frame_shape[:-1], 8), "float64")


def launches(settings: Settings) -> dict[str, Launch]:
    """How each kernel is launched."""
    sizes, antennas = Sizes(settings), settings.antennas
    rows = antennas * sizes.periods
    known = {
        "measure_burst": Launch(antennas * sizes.measure_blocks, 256, 0),
        "balance": Launch(antennas, 32, 0),
        "read_pulses": Launch(rows * -(-sizes.filtered // 256), 256, 0),
        "compress": Launch(rows * align.DENSE * sizes.compress_tiles, 128, 0),
        "profile": Launch(-(-sizes.delays // 64), 64, 0),
        "weigh_windows": Launch(-(-sizes.delays // 8), 256, 0),
        "keep_paths": Launch(-(-sizes.delays // 64), 64, 0),
        "weigh_timings": Launch(-(-sizes.candidates // 8), 256, 0),
        "decide": Launch(1, 1024, 0),
        "fold": Launch(antennas * -(-settings.q // 256), 256, 0),
    }
    return {name: known[name] for name in parameters(settings)}


def buffers(settings: Settings) -> dict[str, Tensor]:
    """All that the kernels write but `tracked`: scratch, then outputs of `waveform_signature`."""
    sizes, antennas = Sizes(settings), settings.antennas
    rows = antennas * sizes.periods
    compressed = {
        "filtered": Tensor((rows, sizes.filtered), "complex64"),
        "inside": Tensor((sizes.delays,), "float32"),
    }
    return (compressed if settings.pilot == "spread" else {}) | {
        "of_blocks": Tensor((antennas * sizes.measure_blocks, 6), "float32"),
        "correction": Tensor((antennas, 6), "float32"),
        "pulses": Tensor((rows, sizes.delays), "complex64"),
        "pilot": Tensor((sizes.delays,), "float32"),
        "parts": Tensor((align.PARTS, sizes.delays), "float32"),
        "of_tiles": Tensor((-(-sizes.delays // 64), 7), "float32"),
        "cost": Tensor((sizes.candidates,), "float32"),
        "plan": Tensor((4,), "int64"),
        "frame": Tensor(settings.frame_shape, "complex64"),
        "front": Tensor((*settings.frame_shape[:-1], len(FRONT)), "float32"),
    }


def constants(settings: Settings) -> dict[str, np.ndarray]:
    """The tables that the kernels read.

    pulse_taps [4, taps]  w1 at (f/4 - j) samples, of unit energy; f a part of a sample
    taper, part_of [P]    the burst's window at each pulse, and the part that it is of, or -1
    part_floor [4]        what the power of the data amounts to in each part
    spill                 `align.spilled`
    data_samples          `balance.data_samples`
    """
    taper = align.pilot_taper(settings)
    part_of = np.full(taper.size, -1, np.int32)
    parts = align.burst_parts(taper)
    for index, part in enumerate(parts):
        part_of[part] = index
    return {
        "pulse_taps": _pulse_taps(settings).astype(np.float32),
        "taper": taper.astype(np.float32),
        "part_of": part_of,
        "part_floor": np.array([np.sum(taper[part] ** 4) for part in parts], np.float32),
        "spill": align.spilled(settings).astype(np.float32),
        "data_samples": balance.data_samples(settings).astype(np.int32),
    }


def _pulse_taps(settings: Settings) -> np.ndarray:
    reach, steps = Sizes(settings).reach, align.STEPS
    fine = OVERSAMPLING * steps
    count = fine * smooth(max(256, 4 * reach))
    # Of unit energy at the front end's samples, not at the finer ones.
    pulse = np.fft.ifft(pulse_spectrum(settings, count, fine)).real * math.sqrt(steps)
    at = np.arange(steps)[:, None] - steps * np.arange(-reach, reach + 1)
    return np.asarray(pulse[at])


def source(settings: Settings, file: str) -> str:
    """What is compiled of `file`, its sizes as macros."""
    s, sizes, place = settings, Sizes(settings), slot(settings)
    core, core_samples = balance.burst_core(s)
    centre = sizes.origin + OVERSAMPLING * place.centre
    chips = align.pilot_chips(s)[1]
    beta, turn = max(s.rolloffs[1], 1e-9), 2 * math.pi * s.pilot_bin[1] / s.n
    whole = {
        "ANTENNAS": s.antennas, "FOLD_BLOCKS": -(-s.q // 256),
        "M": s.m, "N": s.n, "Q": s.q, "CENTRE": place.centre, "HALF": place.half,
        "ORIGIN": sizes.origin, "WINDOW": waveform_span(s)[1] + sizes.origin,
        "CORE": centre + core, "CORE_SAMPLES": core_samples,
        "DATA_SAMPLES": balance.data_samples(s).size, "MEASURE_BLOCKS": sizes.measure_blocks,
        "REACH": sizes.reach, "TAPS": sizes.taps, "CHUNK": min(_CHUNK, sizes.taps + 1),
        "PERIODS": sizes.periods, "DELAYS": sizes.delays, "SEEN": align.seen_symbols(s),
        "FILTERED": sizes.filtered, "FILTER_REACH": align.filter_reach(s),
        "SPREAD": int(s.pilot == "spread"), "TAPERED": int(s.waveform == "zak"),
        "FRAME_CENTRE": centre_sample(s),
        "PULSE_CENTRE": centre + OVERSAMPLING * int(chips[0]),
        "PULSE_TILES": -(-sizes.filtered // 256), "PROFILE_TILES": -(-sizes.delays // 64),
        "CANDIDATES": sizes.candidates, "PARTS": align.PARTS, "NEAR": align.NEAR,
        "WIDTH": align.NEAR * align.DENSE, "DELAY_TAPS": s.delay_taps,
        "STRIP": s.guard_bins // 2, "TURNS": sizes.turns,
    }  # fmt: skip
    real = {
        "KEEP_BALANCE": 1 - 1 / balance.MEMORY, "KEEP_CARRIER": 1 - 1 / CARRIER_MEMORY,
        "SIGMAS": balance.SIGMAS, "PILOT_RE": math.cos(turn), "PILOT_IM": -math.sin(turn),
        "HZ": s.nu_p, "EDGE_SCALE": 1 / (s.q * beta), "EDGE_START": (1 - beta) / (2 * beta),
    }  # fmt: skip
    single = {
        "FLOOR": align.FLOOR, "TAPER4": float(np.sum(align.pilot_taper(s) ** 4)),
        "SILENT": align.SILENT, "ASTRAY": align.ASTRAY, "LARGEST": _LARGEST,
        "REACHES": align.REACHES * s.window_delays, "INVERSE_PI": 1 / math.pi,
        "LOUD": align.LOUD, "MOST_ASTRAY": most_astray(s),
    }  # fmt: skip
    if s.pilot == "spread":
        whole |= {
            "CHIRP": s.chirp_period, "STRIP_BINS": s.guard_bins,
            "COMPRESS_TILES": sizes.compress_tiles, "PATHS": path_delays(s, align.DENSE),
        }  # fmt: skip
    macros = [f"#define {name} ({value})\n" for name, value in whole.items()]
    macros += [f"#define {name} ({value!r})\n" for name, value in real.items()]
    macros += [f"#define {name} ({value:.9e}f)\n" for name, value in single.items()]
    headers = ["common.cuh", "correct.cuh", "paths.cuh"]
    if s.pilot == "spread":
        headers.append("chirp.cuh")
    return "".join([*macros, *map(text, headers), text(file)])


class KernelFront:
    """As `synchronize.FrontEnd` makes a frame of a burst, on the current CUDA device and stream."""

    def __init__(
        self,
        settings: Settings,
        tables: Tensors,
        platform: Platform,
        load: Loader = Kernel.load,
    ) -> None:
        """Compiles the kernels; `tables` are `constants` and `tracked`, on the device.

        FoundryError where the device cannot load them.
        """
        self._buffers, self._launches = buffers(settings), launches(settings)
        self._tables, self._parameters = tables, parameters(settings)
        self._kernels: dict[str, Launchable] = {}
        for file, names in files(settings).items():
            image = compiled(source(settings, file), file, platform.architecture)
            self._kernels |= {name: load(image, name, 0) for name in names}

    def __call__(
        self, waveform: torch.Tensor, doubtful: torch.Tensor, into: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """A burst, as in `front.signature`, to its `frame` and `front`.

        Those of `into` are written where they are.
        """
        given = {**(into or {}), **self._tables, "waveform": waveform, "doubtful": doubtful}
        tensors = made(self._buffers, given, waveform)
        launch(self._kernels, self._launches, self._parameters, tensors)
        return {name: tensors[name] for name in ("frame", "front")}
