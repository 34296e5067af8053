"""Options of `foundryrt run` for this workload."""

from __future__ import annotations

import os
from dataclasses import dataclass

from foundryrt.errors import UsageError
from foundryrt.options import option

_OUTPUTS = ("bits_out", "llr_out", "frame_log", "constellation", "latency_plot")


@dataclass(frozen=True)
class Options:
    """The source of frames, their rate, and what is stored. UsageError for an impossible value."""

    frames: int = option(100, "simulated frames")
    snr: float = option(20.0, "signal-to-noise ratio of the simulated link in dB")
    seed: int = option(0, "seed of payload, channel and noise")
    channel: str = option(
        "vehicular-a", "simulated channel: vehicular-a, eva, or a .csv or .json file of paths"
    )
    pool: int = option(0, "simulated frames made beforehand; 0: as many as fit in 256 MB")
    iq: str = option("", "receive this recording (.sigmf-data, .sigmf-meta, .sigmf or raw)")
    metadata: str = option("", "SigMF metadata of --iq, where it is not beside it")
    datatype: str = option("", "samples of --iq, such as cf32_le or ci16_le; else from metadata")
    zmq: str = option("", "receive from senders at this ZeroMQ endpoint, such as ipc:///tmp/otfs")
    bare: str = option(
        "", "with --zmq: cf32_le samples without headers, from a pub, push or dealer socket"
    )
    shm: str = option("", "receive from a sender's ring in shared memory, such as /dev/shm/otfs")
    idle_timeout: float = option(10.0, "end --zmq or --shm after so many silent seconds; 0: never")
    max_frames: int = option(0, "stop --iq, --zmq or --shm after so many frames; 0: never")
    pace: bool = option(False, "frames at the rate of the air interface, not as fast as possible")
    queue: int = option(8, "frames that may wait; on overrun the oldest is dropped")
    lossless: bool = option(False, "with --zmq or --shm, a full queue makes the sender wait")
    depth: int = option(3, "frames in flight between copy-in and copy-out")
    bits_out: str = option("", "write the payload bits to this file, packed")
    llr_out: str = option("", "write the LLRs to this file, float32")
    frame_log: str = option("", "write how each frame was to this file, a line of JSON for each")
    constellation: str = option("", "write the constellation to this PNG")
    latency_plot: str = option("", "write the latency histogram to this PNG")

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("queue", 1), ("depth", 1), ("pool", 0),
                            ("max_frames", 0), ("seed", 0), ("idle_timeout", 0)):  # fmt: skip
            value = getattr(self, name)
            if not value >= least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: use {least} or more")
        if not -100 <= self.snr <= 200:
            raise UsageError(f"--snr {self.snr}: use -100 to 200 dB")
        given = [name for name in ("iq", "zmq", "shm") if getattr(self, name)]
        if len(given) > 1:
            raise UsageError(f"--{' and --'.join(given)}: one source at a time")
        if (self.metadata or self.datatype) and not self.iq:
            raise UsageError("--metadata and --datatype need --iq FILE")
        if self.bare and self.bare not in ("pub", "push", "dealer"):
            raise UsageError(f"--bare {self.bare}: use pub, push or dealer, the sender's socket")
        if self.bare and not self.zmq:
            raise UsageError("--bare needs --zmq ENDPOINT")
        if self.max_frames and not given:
            raise UsageError("--max-frames needs --iq, --zmq or --shm; here --frames counts")
        if self.pace and self.live:
            raise UsageError("--pace: a live source has its own rate; pace the sender")
        if self.lossless and not self.live:
            raise UsageError("--lossless needs --zmq or --shm")
        self._check_files()

    def _check_files(self) -> None:
        """Each output is a file of its own, and none that is read."""
        users: dict[str, str] = {}
        for name in ("iq", "metadata", "shm", "channel", *_OUTPUTS):
            text = getattr(self, name)
            if not text:
                continue
            given, path = f"--{name.replace('_', '-')}", os.path.realpath(text)
            if name in _OUTPUTS:
                if not os.path.isdir(os.path.dirname(path)):
                    raise UsageError(f"{text}: there is no such folder")
                if os.path.exists(path) and not os.path.isfile(path):
                    raise UsageError(f"{given} {text}: it is not a regular file")
                if path in users:
                    raise UsageError(f"{users[path]} and {given} are one file; give two")
            users[path] = given
            if name == "iq":
                # Either of a recording's two files may have been named.
                for suffix in (".sigmf-meta", ".sigmf-data"):
                    users[os.path.splitext(path)[0] + suffix] = given

    @property
    def live(self) -> bool:
        """Whether the source is another process, which sends at its own rate."""
        return bool(self.zmq or self.shm)
