"""Options of `foundryrt run` for this workload."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from foundryrt.errors import UsageError
from foundryrt.options import option

_SIMULATED = ("frames", "snr", "seed", "channel", "pool")
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
    datatype: str = option(
        "", "samples of --iq, --bare or --udp, such as cf32_le, ci16_le, ci8 or cu8"
    )
    zmq: str = option("", "receive from senders at this ZeroMQ endpoint, such as ipc:///tmp/otfs")
    bare: str = option("", "with --zmq: samples without headers, from a pub, push or dealer socket")
    shm: str = option("", "receive from a sender's ring in shared memory, such as /dev/shm/otfs")
    udp: str = option("", "with --raw: receive datagrams at this address, such as 0.0.0.0:4991")
    packets: str = option("sequence", "datagrams of --udp: sequence, or vita49")
    raw: bool = option(
        False, "the source is a waveform as it is on the air: synchronize and filter it"
    )
    rate: float = option(0.0, "samples a second of --raw; 0: from metadata, else two a symbol")
    idle_timeout: float = option(10.0, "end a live source after so many silent seconds; 0: never")
    max_frames: int = option(0, "stop a recorded or live source after so many frames; 0: never")
    pace: bool = option(False, "frames at the rate of the air interface, not as fast as possible")
    queue: int = option(8, "frames that may wait; on overrun the oldest is dropped")
    lossless: bool = option(False, "with --zmq or --shm, a full queue makes the sender wait")
    depth: int = option(3, "frames in flight between copy-in and copy-out")
    bits_out: str = option("", "write the payload bits to this file, packed", writes=True)
    llr_out: str = option("", "write the LLRs to this file, float32", writes=True)
    frame_log: str = option(
        "", "write how each frame was to this file, a line of JSON for each", writes=True
    )
    constellation: str = option("", "write the constellation to this PNG", writes=True)
    latency_plot: str = option("", "write the latency histogram to this PNG", writes=True)
    live: str = option(
        "", "show the run while it goes on: a page, /metrics and /frames at [HOST:]PORT, by"
        " default at a free port of this machine alone", alone="0",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("queue", 1), ("depth", 1), ("pool", 0),
                            ("max_frames", 0), ("seed", 0), ("idle_timeout", 0),
                            ("rate", 0)):  # fmt: skip
            value = getattr(self, name)
            if not value >= least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: use {least} or more")
        if not -100 <= self.snr <= 200:
            raise UsageError(f"--snr {self.snr}: use -100 to 200 dB")
        given = [name for name in ("iq", "zmq", "shm", "udp") if getattr(self, name)]
        if len(given) > 1:
            raise UsageError(f"--{' and --'.join(given)}: one source at a time")
        self._check_simulated(given)
        if self.metadata and not self.iq:
            raise UsageError("--metadata needs --iq FILE")
        if self.datatype and not (self.iq or self.bare or self.udp):
            raise UsageError("--datatype needs --iq FILE, --bare or --udp")
        if self.bare and self.bare not in ("pub", "push", "dealer"):
            raise UsageError(f"--bare {self.bare}: use pub, push or dealer, the sender's socket")
        if self.bare and not self.zmq:
            raise UsageError("--bare needs --zmq ENDPOINT")
        self._check_raw(bool(given))
        if self.max_frames and not given:
            raise UsageError("--max-frames needs a source; of simulated frames, --frames counts")
        if self.pace and self.external:
            raise UsageError("--pace: a live source has its own rate; pace the sender")
        if self.lossless and not (self.zmq or self.shm):
            raise UsageError("--lossless needs --zmq or --shm")
        self._check_files()
        if self.live:
            _ = self.live_address

    def _check_simulated(self, given: list[str]) -> None:
        """UsageError for an option that the source has no use for."""
        for name in _SIMULATED if given else ():
            if getattr(self, name) != getattr(Options, name):
                instead = "; --max-frames ends the run after so many" if name == "frames" else ""
                raise UsageError(
                    f"--{name} is of simulated frames, and --{given[0]} has its own{instead}"
                )
        if not self.external and self.idle_timeout != Options.idle_timeout:
            raise UsageError("--idle-timeout is of a live source: --zmq, --shm or --udp")

    def _check_raw(self, sourced: bool) -> None:
        if self.raw and not sourced:
            raise UsageError("--raw needs a source: --iq, --zmq, --shm or --udp")
        if self.rate and not self.raw:
            raise UsageError("--rate is that of a waveform; give --raw, too")
        if self.udp and not self.raw:
            raise UsageError("--udp brings samples, not frames; give --raw, too")
        if self.packets not in ("sequence", "vita49"):
            raise UsageError(f"--packets {self.packets}: use sequence or vita49")
        if self.packets != "sequence" and not self.udp:
            raise UsageError("--packets needs --udp ADDRESS:PORT")

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
    def external(self) -> bool:
        """Whether the source is another process, which sends at its own rate."""
        return bool(self.zmq or self.shm or self.udp)

    @property
    def live_address(self) -> tuple[str, int]:
        """Host and port of --live."""
        found = re.fullmatch(r"(?:(\[[^\]]+\]|[^:\[\]]*):)?(\d{1,5})", self.live)
        if found is None or int(found[2]) >= 1 << 16:
            raise UsageError(f"--live {self.live}: write [HOST:]PORT, such as 8080 or 0.0.0.0:8080")
        return (found[1] or "127.0.0.1").strip("[]"), int(found[2])
