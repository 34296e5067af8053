"""Online side of the workload: frames through the recorded receiver; needs no torch of its own."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from foundryrt.console import printable, write
from foundryrt.errors import FoundryError, UsageError, install
from foundryrt.progress import progress_bar
from otfs_pipeline import plots
from otfs_pipeline.frames import stream
from otfs_pipeline.frames.feed import Feed, frame_period, open_feed
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.results import Results
from otfs_pipeline.front.signature import WAVEFORM_GRAPH, waveform_signature
from otfs_pipeline.link import frame
from otfs_pipeline.metrics import latency_percentiles
from otfs_pipeline.options import Options
from otfs_pipeline.settings import Settings
from otfs_pipeline.signals import stopped_by_signals
from otfs_pipeline.signature import GRAPH, Signature, signature

if TYPE_CHECKING:
    from foundryrt.graph import Graph
    from foundryrt.pipeline import Pipeline
    from foundryrt.session import Session
    from otfs_pipeline.live.state import State

__all__ = ["Options", "run"]


def run(session: Session, options: Options, json: bool) -> dict[str, object]:
    """Receive all frames of the source and report; frames that are malformed or lost are counted.

    Ctrl-C (or SIGTERM) ends the stream and gives the report; a second one ends the process.
    """
    settings = Settings.recorded(session.settings)
    graph, takes = _graph(session, settings, options)
    stop = threading.Event()
    if plotted := options.constellation or options.latency_plot:
        plots.new_figure(plotted)  # a missing matplotlib is an error before the stream, not after
    tells = _tells(graph)
    if not tells and (options.frame_log or options.live):
        raise UsageError(
            f"{'--frame-log' if options.frame_log else '--live'}: this bundle's receiver does not "
            "say how frames were; capture it again"
        )
    with (
        _shown(options, settings) as live,
        Results(options, settings, live.watch.take if live else None, tells) as results,
    ):
        outputs, lazy = results.outputs, results.lazy
        if in_graph := "front" in takes.outputs:
            outputs, lazy = (*outputs, "front", "frame"), (*lazy, "frame")
        pipeline = graph.pipeline(tuple(takes.inputs), outputs, options.depth, lazy)
        try:
            # The first launch also touches memory and makes plans: it is no frame of the stream.
            zeros = {name: np.zeros(like.shape, like.dtype) for name, like in takes.inputs.items()}
            pipeline.submit(0, zeros)
            pipeline.wait(0)
            with stopped_by_signals(stop) as signals:
                samples, like = next(iter(takes.inputs.items()))
                staging = partial(pipeline.staging, samples)
                front = pipeline if in_graph else None
                tally = stream.Tally()
                with closing(open_feed(settings, options, stop, staging, front)) as feed:
                    if live:
                        live.follow(feed, results, tally)
                    _receive(feed, pipeline, like.shape, results, stop, tally)
        finally:
            stop.set()
            pipeline.close()
        if not tally.frames and not signals:
            raise _nothing(settings, options, feed, tally)
        results.commit()
    report = _report(settings, options, feed, tally, results)
    report["interrupted"] = bool(signals)
    title = f"{settings.grid}, {settings.modulation}-QAM"
    _plot(options, results, tally, feed.period * 1e3, title)
    if not json:
        _print(report)
    return report


@contextmanager
def _shown(options: Options, settings: Settings) -> Iterator[State | None]:
    """Serve the page, where one is wanted; FoundryError without what that needs."""
    if not options.live:
        yield None
        return
    try:
        from otfs_pipeline.live.server import serving
        from otfs_pipeline.live.state import State
    except ImportError as error:
        raise FoundryError(
            f"--live needs {error.name}, which is not installed: {install('serve')}"
        ) from error
    state = State(settings, frame_period(settings, options))
    with serving(state, options.live_address):
        yield state


def _graph(session: Session, settings: Settings, options: Options) -> tuple[Graph, Signature]:
    """The graph to launch: of --raw the one that has the front end, where the bundle has it."""
    if options.raw:
        with suppress(UsageError):
            return session.graph(WAVEFORM_GRAPH), waveform_signature(settings)
    return session.graph(GRAPH), signature(settings)


def _tells(graph: Graph) -> bool:
    """Whether the receiver says how frames were, which older bundles' do not."""
    try:
        graph.tensor("power")
    except UsageError:
        return False
    return True


def _because(feed: Feed) -> str:
    """Why the first malformed frame was, in brackets."""
    return f" ({feed.counts.reason})" if feed.counts.reason else ""


def _of_each(settings: Settings) -> str:
    return "" if settings.antennas == 1 else f" of each of {settings.antennas} antennas"


def _nothing(settings: Settings, options: Options, feed: Feed, tally: stream.Tally) -> FoundryError:
    """Why no frame was received, as far as it can be told."""
    lost = feed.report()
    counts = tally.wrong_length, tally.not_finite, lost["dropped"], lost["malformed"]
    came = any(counts) if feed.raw is None else feed.raw.report()["samples"] or any(counts)
    if options.external and not came:
        return FoundryError(
            f"nothing came from {printable(feed.name)} in {options.idle_timeout:g} s; start the "
            "sender after the receiver, or give a longer --idle-timeout"
        )
    why = _unlocked(settings, options, feed.raw) if feed.raw else _a_frame(settings)
    return FoundryError(
        "no frame could be received: {} of wrong length, {} without finite results, {} dropped, "
        "{} malformed{}; {}".format(*counts, _because(feed), why)
    )


def _a_frame(settings: Settings) -> str:
    return f"a frame has {settings.q} samples{_of_each(settings)}"


def _unlocked(settings: Settings, options: Options, raw: Raw) -> str:
    """Why a front end may have given no frame."""
    found = raw.report()
    if not found["samples"]:
        return f"there is no sample in {'what came' if options.external else 'the recording'}"
    if found["damaged"]:
        return (
            f"a preamble was found, and {found['damaged']} frames were damaged: samples of them "
            "are missing, or they are of another link; was the bundle captured with the sender's "
            "settings, and are the rate, --datatype and --packets right?"
        )
    if found["locks"]:
        return "a preamble was found, but the waveform ends before its frame does"
    if found["far_carrier_hz"] is not None:
        return (
            f"a preamble was found whose carrier is off by about {found['far_carrier_hz']:+.0f} "
            f"Hz, and the front end takes up to {settings.nu_p / 3:.0f} Hz; tune the radio, or "
            "shift the recording"
        )
    return (
        f"no preamble of this bundle's link was found in {found['samples']} samples; was it "
        "captured with the sender's settings, are the rate and --datatype right, and is the "
        f"carrier off by less than {settings.nu_p / 3:.0f} Hz?"
    )


def _receive(
    feed: Feed,
    pipeline: Pipeline,
    shape: tuple[int, ...],
    results: Results,
    stop: threading.Event,
    tally: stream.Tally,
) -> None:
    deadline = feed.period * 1e3
    missed = 0

    with progress_bar(feed.total, "receiving") as update:

        def seen(tally: stream.Tally) -> None:
            nonlocal missed
            missed += tally.milliseconds[-1] > deadline
            update(tally.frames, f"frames, {missed} missed their deadline")

        most = feed.most or math.inf
        stream.receive(
            feed.frames, pipeline, shape, results.take, stop, seen, tally, most, feed.word
        )


def _report(
    settings: Settings, options: Options, feed: Feed, tally: stream.Tally, results: Results
) -> dict[str, Any]:
    payload, deadline = frame.payload_bits(settings), feed.period * 1e3
    milliseconds = np.array(tally.milliseconds)
    lost = feed.report()
    missed = int(np.count_nonzero(milliseconds > deadline))
    arrived = tally.frames + lost["dropped"]
    delivered = tally.frames - (results.coding.frame_errors if results.coding else 0)
    rate = payload * delivered / tally.seconds / 1e6 if tally.frames else 0.0
    return {
        "source": feed.name,
        "paced": options.pace,
        "grid": settings.grid,
        "modulation": settings.modulation,
        "antennas": settings.antennas,
        "cg_iterations": settings.cg_iterations,
        "frames": tally.frames,
        "skipped": {"wrong_length": tally.wrong_length, "not_finite": tally.not_finite},
        **lost,
        "malformed_reason": feed.counts.reason or None,
        "captures": feed.captures,
        "ber": results.payload.rate,
        "ber_frames": results.frames,
        "coding": _coding(settings, results),
        "fit": dict(results.fit.flags) if results.fit else None,
        "conditions": results.conditions.totals() if results.conditions else None,
        "latency_ms": latency_percentiles(milliseconds) if tally.frames else None,
        "deadline_ms": deadline,
        "deadline_misses": missed,
        "on_time": (tally.frames - missed) / arrived if arrived else None,
        "payload_bits": payload,
        "payload_mbps": rate,
        "air_payload_mbps": payload / feed.period / 1e6,
        "front_end": feed.raw.report() if feed.raw else None,
    }


def _coding(settings: Settings, results: Results) -> dict[str, Any] | None:
    block, tally = settings.transport_block, results.coding
    if block is None or tally is None:
        return None
    return {
        "code": f"5G NR LDPC, base graph {block.base_graph}, lifting size {block.graph.lifting}",
        "target_rate": settings.code_rate,
        "rate": block.payload_bits / block.coded_bits,
        "coded_bits": block.coded_bits,
        "blocks_a_frame": block.blocks,
        "decoder_iterations": settings.decoder_iterations,
        "uncoded_ber": tally.uncoded.rate,
        "blocks": tally.blocks,
        "block_errors": tally.block_errors,
        "block_error_rate": tally.block_errors / tally.blocks if tally.blocks else None,
        "frame_errors": tally.frame_errors,
        "frame_error_rate": tally.frame_errors / tally.frames if tally.frames else None,
    }


def _plot(
    options: Options, results: Results, tally: stream.Tally, deadline: float, title: str
) -> None:
    if options.constellation and tally.frames:
        plots.constellation(options.constellation, results.symbols, title)
    if options.latency_plot and tally.frames:
        plots.latency(options.latency_plot, np.array(tally.milliseconds), deadline, title)


def _print(report: dict[str, Any]) -> None:
    skipped, latency = report["skipped"], report["latency_ms"]
    why = report["malformed_reason"]
    reason = f" ({printable(why)})" if why else ""
    antennas = f"{report['antennas']} antennas, " if report["antennas"] > 1 else ""
    ber = "unknown payload" if report["ber"] is None else f"{report['ber']:.3e}"
    write(
        f"{report['grid']}, {report['modulation']}-QAM, {antennas}K {report['cg_iterations']}, "
        f"{printable(report['source'])}{', interrupted' if report['interrupted'] else ''}\n"
        f"frames      {report['frames']} received, {skipped['wrong_length']} of wrong length and "
        f"{skipped['not_finite']} not finite skipped\n"
        f"lost        {report['dropped']} dropped, {report['lost']} lost on the way, "
        f"{report['malformed']} malformed{reason}\n"
        f"BER         {ber} over {report['ber_frames']} frames\n"
    )
    if found := report["front_end"]:
        write(f"front end   {_front_end(found)}\n")
    if coding := report["coding"]:
        before = coding["uncoded_ber"]
        uncoded = "" if before is None else f"; BER before decoding {before:.3e}"
        write(
            f"decoded     {coding['block_errors']} of {coding['blocks']} blocks and "
            f"{coding['frame_errors']} frames with errors, rate {coding['rate']:.3f}{uncoded}\n"
        )
    fit = report["fit"] or {}
    if beside := fit.get("mismatch"):
        write(
            f"mismatch    {beside} frames: their symbols are farther from the points of "
            f"{report['modulation']}-QAM than noise explains;\n"
            "            is the bundle the sender's, the carrier in range, the input not clipped?\n"
        )
    if noisy := fit.get("noisy"):
        write(f"noisy       {noisy} frames: about a tenth of their bits is wrong, or more\n")
    if conditions := report["conditions"]:
        flagged = ", ".join(f"{count} {name}" for name, count in conditions["flags"].items())
        write(f"condition   {conditions['good']} of {conditions['frames']} good; {flagged}\n")
    if latency:
        write(
            f"latency     p50 {latency['p50']:.3f}  p99 {latency['p99']:.3f}  p99.9 "
            f"{latency['p99_9']:.3f}  max {latency['max']:.3f} ms; deadline "
            f"{report['deadline_ms']:.3f} ms, {report['deadline_misses']} missed, "
            f"{report['on_time']:.2%} in time\n"
            f"throughput  {report['payload_mbps']:.2f} Mbps payload"
            f"{' at frame rate' if report['paced'] else ''} (on air "
            f"{report['air_payload_mbps']:.2f})\n"
        )


def _front_end(found: dict[str, Any]) -> str:
    parts = [f"{found['locks']} locks, {found['jumps']} jumps, {found['damaged']} frames damaged"]
    for name, label, form, unit in (("carrier_hz", "carrier", "+.0f", "Hz"),
                                    ("dc_db", "DC", ".0f", "dB"),
                                    ("image_db", "image", ".0f", "dB")):  # fmt: skip
        each = found[name] if isinstance(found[name], list) else [found[name]]
        shown = ["none" if value is None else format(value, form) for value in each]
        if set(shown) != {"none"}:
            parts.append(f"{label} {' / '.join(shown)} {unit}")
    return ", ".join(parts)
