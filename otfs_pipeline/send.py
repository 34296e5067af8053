"""Sends frames, or with --raw a waveform, to a receiver or into a recording.

    python -m otfs_pipeline.send (--zmq ENDPOINT | --shm FILE) [--iq RECORDING] [--pace] ...
    python -m otfs_pipeline.send --raw (--zmq ... | --shm ... | --udp ADDRESS | --output FILE) ...

Without --pace frames go out as fast as the receiver takes them. The settings of simulated frames
come from the bundle that receives them (--bundle), or are the defaults of a capture for --grid.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from foundryrt.console import print_json, write
from foundryrt.errors import FoundryError, UsageError
from foundryrt.progress import progress_bar
from foundryrt.remote.bundle import open_bundle
from otfs_pipeline import send_raw
from otfs_pipeline.arguments import (
    HelpWithDefaults,
    decibels,
    exit_code,
    natural,
    positive,
    seconds,
    seed,
)
from otfs_pipeline.frames import opening, shared, source, zeromq
from otfs_pipeline.frames.pace import sleep_until
from otfs_pipeline.frames.samples import DATATYPES, encode, width
from otfs_pipeline.frames.wire import FORMATS, Header, Sender
from otfs_pipeline.link import profile
from otfs_pipeline.settings import Settings

# Puts simulated frames, of unit mean energy but with a strong pilot, into the range of ci16_le.
_INTEGER_GAIN = 1 / 64


def main(arguments: list[str] | None = None) -> int:
    """Send; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.defaults = {name: parser.get_default(name) for name in vars(options)}
    return exit_code(lambda: _main(options))


def _main(options: argparse.Namespace) -> None:
    report = send(options)
    if options.json:
        print_json(report)
    else:
        write(f"{report['frames']} frames sent in {report['seconds']:.2f} s\n")
        if options.raw:
            write(
                f"{report['sample_rate']:g} samples a second; a frame each "
                f"{report['slot_seconds'] * 1e3:.4g} ms, {report['air_payload_mbps']:.2f} Mbit/s "
                "of payload on the air\n"
            )


def send(options: argparse.Namespace) -> dict[str, Any]:
    """Send by `options`; gives the number of frames, the seconds, and how many were sent late."""
    settings = _settings(options)
    _refuse_options(options)
    if options.raw:
        if options.iq:
            raise UsageError("--iq holds frames, or a finished waveform: --raw simulates its own")
        return send_raw.send(options, settings)
    if options.udp or options.output:
        raise UsageError("--udp and --output hold a waveform; give --raw, too")
    send_raw.refuse_options(options)
    if options.iq:
        messages = list(_recorded(options.iq, settings))
        frames = options.frames or len(messages)
    else:
        frames = options.frames or 100
        messages = list(_simulated(options, settings, min(options.pool, frames)))
    if not messages:
        raise FoundryError(f"recording {options.iq}: there is no frame in it")
    size = max(len(data) for _, data in messages)
    link: Sender = (
        zeromq.Sender(options.zmq, options.patience)
        if options.zmq
        else shared.Sender(options.shm, size, options.slots, not options.pace, options.patience)
    )
    late = sent = 0
    start = time.perf_counter()
    with closing(link), progress_bar(frames, "sending") as update:
        for header, data in itertools.islice(itertools.cycle(messages), frames):
            if options.pace:
                due = start + (sent + 1) * settings.frame_seconds
                late += time.perf_counter() > due
                sleep_until(due)
            link.send(replace(header, sequence=sent), data)
            sent += 1
            update(sent)
        link.finish(sent)
    return {"frames": sent, "seconds": time.perf_counter() - start, "late": late}


def _refuse_options(options: argparse.Namespace) -> None:
    """UsageError for an option that means nothing beside the others."""
    for names, meaningless, why in (
        (
            ("snr", "seed", "channel", "pool", "datatype"),
            options.iq,
            "of simulated frames, not --iq",
        ),
        (("slots",), not options.shm, "of --shm"),
        (("grid",), options.bundle, "in --bundle already"),
        (("pace", "patience", "pool"), options.output, "of a live receiver, not --output"),
        (("patience",), options.udp, "of --zmq and --shm"),
    ):
        for name in names if meaningless else ():
            if getattr(options, name) != options.defaults[name]:
                raise UsageError(f"--{name} is {why}")
    if (options.zmq or options.shm) and options.datatype not in FORMATS:
        raise UsageError(
            f"--datatype {options.datatype} is of --udp and --output; headers have "
            f"{', '.join(FORMATS)}"
        )


def _settings(options: argparse.Namespace) -> Settings:
    if not options.bundle:
        return Settings(grid=options.grid)
    with open_bundle(options.bundle) as bundle:
        return Settings.recorded(bundle.manifest.workload.settings)


def _recorded(path: str, settings: Settings) -> Iterator[tuple[Header, bytes]]:
    played = opening.open_recording(path, "", "", settings)
    datatype = played.datatype if played.datatype in FORMATS else "cf32_le"
    for known, piece in played.pieces(settings):
        seed, index = known or (-1, 0)
        samples = played.channels * (len(piece) // played.sample_bytes)
        data = piece[: samples * width(played.datatype)]
        if datatype != played.datatype or played.channels > 1:
            data = encode(played.samples(data), datatype)
        yield Header(0, datatype, samples, seed, index), data


def _simulated(
    options: argparse.Namespace, settings: Settings, size: int
) -> Iterator[tuple[Header, bytes]]:
    paths = profile.find(options.channel)
    paths.check(settings)
    gain = _INTEGER_GAIN if options.datatype == "ci16_le" else 1.0

    def make(index: int) -> source.Frame:
        return source.simulate(settings, options.snr, options.seed, index, paths)

    with progress_bar(size, "simulating") as update:
        for index, item in enumerate(source.pool(make, size)):
            update(index + 1)
            header = Header(0, options.datatype, item.samples.size, options.seed, index)
            yield header, encode(item.samples, options.datatype, gain)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m otfs_pipeline.send", description=__doc__)
    parser.formatter_class = HelpWithDefaults
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--zmq", default="", help="endpoint of a receiver, such as ipc:///tmp/otfs")
    place.add_argument("--shm", default="", help="file of the ring, such as /dev/shm/otfs")
    place.add_argument("--udp", default="", help="of --raw: address, such as 127.0.0.1:4991")
    place.add_argument("--output", default="", help="of --raw: name of a SigMF recording")
    parser.add_argument("--iq", default="", help="SigMF recording or archive, repeated")
    parser.add_argument("--bundle", default="", help="settings of the link, from its receiver")
    parser.add_argument("--grid", default="1024x32", help="grid, where there is no --bundle")
    parser.add_argument("--frames", type=natural, default=0, help="0: the recording once, or 100")
    parser.add_argument("--snr", type=decibels, default=20.0, help="of simulated frames, in dB")
    parser.add_argument("--seed", type=seed, default=0, help="of simulated frames")
    parser.add_argument("--channel", default="vehicular-a", help="see foundryrt options")
    parser.add_argument("--pool", type=positive, default=16, help="simulated frames, repeated")
    parser.add_argument(
        "--datatype", choices=DATATYPES, default="cf32_le", help="of simulated frames"
    )
    parser.add_argument(
        "--pace",
        action="store_true",
        help="a frame each frame duration, without waiting",
    )
    parser.add_argument("--slots", type=positive, default=16, help="frames that the ring holds")
    parser.add_argument(
        "--patience", type=seconds, default=30.0, help="seconds to wait for a receiver"
    )
    send_raw.add_options(parser)
    parser.add_argument("--json", action="store_true", help="results as JSON on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
