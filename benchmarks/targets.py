"""What is to be reached: a table of targets by area.

A table is a list of rows; a row has a target for each figure that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.figures import (
    POINT,
    accuracy_lost,
    decoder_loss,
    equalizer,
    equalizer_over_plain,
    gains_without_loss,
    given_acceptance,
    given_acceptance_by_evidence,
    given_acceptance_with_eagle3,
    over_before,
    over_eagle3,
    snr_loss,
    without_clusters,
)

Area = Literal[
    "start", "relocation", "tensor-parallel", "parse", "serving", "receiver", "cache"
]  # fmt: skip
REPORTED = "reported"
"""In place of a bound: any measurement will do."""
OPERATING_POINT = "16384x32"
EQUALIZER = f"grids/{OPERATING_POINT}"


@dataclass(frozen=True)
class Target:
    """A figure that must reach `must` and had better reach `aim`.

    At most each, or at least where `higher` is better. A `must` of True is a property that must
    hold; of REPORTED, a figure that must be measured.
    """

    area: Area
    name: str
    file: str
    path: str
    """Where the figure is in the file: keys, and in lists the grid, joined by slashes."""
    must: float | str
    aim: float | None = None
    unit: str = ""
    higher: bool = False
    cpu: bool = False
    """Whether a measurement on a CPU counts."""
    device: str = ""
    """In place of the file's, where the figure is of another one."""
    figure: Callable[[Any, Any], float | bool | None] | None = None
    """Of what is at the path and of the whole file, where the path does not lead to the figure;
    None: not measured."""


def start(mode: str) -> list[list[Target]]:
    """Of the cold start in a mode."""

    def of(name: str, key: str, must: float, aim: float | None = None, **more: Any) -> list[Target]:
        target = Target(
            "start", f"{name}, {mode}", "cold_start.json", f"{mode}/{key}", must, aim, **more
        )
        return [target]

    return [
        of("identical outputs", "identical", True),
        of("first launch / floor", "first_launch_ratio", 2.0, 1.3),
        of("all ready / torch's total", "all_ready_ratio", 0.10, 0.03),
        of("time a node", "us_per_node", 8, 3, unit="us"),
        of("replay / torch's replay", "replay_ratio", 1.02, 1.00),
        of("weights / pinned copy", "weights_ratio", 0.6, 0.9, higher=True),
    ]


def parse(name: str, path: str, must: float | str, aim: float | None = None,
          file: str = "parse.json", **more: Any) -> Target:  # fmt: skip
    return Target("parse", name, file, path, must, aim, **more)


def otfs(name: str, path: str, must: float, aim: float | None = None,
         file: str = "otfs.json", **more: Any) -> Target:  # fmt: skip
    return Target("receiver", name, file, path, must, aim, **more)


def point(key: str) -> str:
    """The path of a figure at the receiver's operating point."""
    return f"grids/{OPERATING_POINT}/{key}"


def relocation(name: str, path: str, must: float, aim: float | None = None,
               file: str = "relocate.json", **more: Any) -> Target:  # fmt: skip
    return Target("relocation", name, file, path, must, aim, **more)


def parallel(name: str, path: str, must: float | str, aim: float | None = None,
             file: str = "tp.json", **more: Any) -> Target:  # fmt: skip
    return Target("tensor-parallel", name, file, path, must, aim, **more)


def serving(name: str, path: str, must: float, aim: float | None = None,
            file: str = "serve.json", **more: Any) -> Target:  # fmt: skip
    return Target("serving", name, file, path, must, aim, **more)


GEOMETRY = "parse_geometry.json"
ARITH, JUDGE, LINK = "parse_arith.json", "parse_judge.json", "otfs_link.json"
LARGE, EIGHT, SERVED = "tp235b.json", "tp8.json", "serve_ranks.json"
CPU = "otfs_cpu.json"

TABLES: dict[str, list[list[Target]]] = {
    "cold start": [*start("eager"), *start("compile")],
    "cache": [
        [Target("cache", "warm hit of 1 GB / cp", "cache.json", "warm_hit/ratio", 1.5, cpu=True)],
        [Target("cache", "captures by 32 processes at once", "cache.json",
                "single_flight/captures", 1, cpu=True)],
    ],
    "PARSE": [
        [parse("one pass over 8 cuts / prefill", "one_pass_over_prefill/value", 1.25)],
        [parse("one pass over 8 cuts / 8 prefills with reuse",
               "one_pass_over_sequential/value", 0.5)],
        [parse("trained pair: gain", "throughput_gain/value", 1.25, 4.3, higher=True),
         parse("trained pair: gain, accuracy lost", "throughput_gain", POINT,
               figure=accuracy_lost)],
        [parse("trained pair: gain with EAGLE-3", "throughput_gain_eagle3/value", 1.6, 4.5,
               higher=True),
         parse("trained pair: gain with EAGLE-3, accuracy lost", "throughput_gain_eagle3", POINT,
               figure=accuracy_lost)],
        [parse("14B decoding / copy bandwidth", "decode_over_bandwidth/value", 0.7, 0.85,
               higher=True)],
    ],
    "receiver in real time": [
        [otfs("p99.9 latency / deadline", point("p99_9_over_deadline"), 1.0, 0.25)],
        [otfs("on time", point("on_time"), 0.999, 1.0, higher=True)],
        [otfs("frames at frame pace", point("frames"), 10_000, higher=True)],
        [otfs("payload flat out", point("flat_out_payload_mbps"), 906, 4000, unit="Mbps",
              higher=True)],
        [otfs("SNR loss against LMMSE", f"grids/{OPERATING_POINT}", 0.2, 0.05, unit="dB", cpu=True,
              device="CPU, float64", figure=snr_loss)],
        [otfs("compute time / roofline", point("compute_over_roofline"), 4, 1.5)],
    ],
    "placement": [
        [relocation("foreign programs, of those that torch captures and repeats, bit-identical"
                    " at another base", "share_identical", 1.0, file="foreign.json", higher=True),
         relocation("foreign programs tried", "programs", 30, file="foreign.json", higher=True)],
        [relocation("two captures, same bytes", "same_bytes", True)],
        [relocation("vLLM with graphs from a bundle: equal answers of 64", "equal_answers", 64,
                    file="engine.json", higher=True),
         relocation("vLLM with graphs from a bundle: time a token / its own",
                    "by_turns/time_per_token_ratio", 1.02, 1.0, file="engine.json"),
         relocation("vLLM with graphs from a bundle: whole start / its own", "ready_ratio",
                    REPORTED, file="engine.json")],
        [relocation("relocating a node", "us_per_node", 0.5, 0.1, unit="us")],
        [relocation("first launch at another base / at the recorded one", "first_launch_ratio",
                    1.1, 1.02)],
        [relocation("capture with proof / plain capture", "capture_ratio", 4, 3)],
        [relocation("switch of 35 graphs", "switch/ms", 100, 30, unit="ms"),
         relocation("switch: longest gap that a client sees", "switch/gap_ms", 20, 5, unit="ms"),
         relocation("switch: no memory but the graphs'", "switch/graphs_only", True)],
        [relocation("first launch through standby", "standby_first_launch_ms", 100, 40,
                    unit="ms")],
        [relocation("cold start: first launch / that of the release before", "after/first_launch",
                    1.0, file="cold_start_before_after.json", figure=over_before)],
    ],
    "tensor parallelism": [
        *([parallel(f"{n} GPUs: all-reduce / NCCL, 8 to 256 KiB, the worst",
                    f"allreduce_{n}/small_over_nccl", 0.6, 0.4),
           parallel(f"{n} GPUs: all-reduce / NCCL, 1 to 64 MiB, the worst",
                    f"allreduce_{n}/large_over_nccl", 1.2, 1.0)] for n in (2, 4)),
        [parallel(f"{size} decoding at batch 1, TP 2 / TP 1", f"decode_{size}_2/speedup/1",
                  REPORTED, higher=True) for size in ("14B", "32B")],
        [parallel(f"{size} decoding at batch 1, TP 4 / TP 1", f"decode_{size}_4/speedup/1", 2.2, 3,
                  higher=True) for size in ("14B", "32B")],
        [parallel(f"{size}, TP {n}: tokens/s over vLLM's, 1, 16 and 64 at a time, the least",
                  f"throughput/{size}_tp{n}/over_vllm", 1.0, 1.2, SERVED, higher=True)
         for size in ("14B", "32B") for n in (2, 4)],
        [parallel(f"{n} GPUs: all ranks' first launch / bare processes",
                  f"decode_14B_{n}/first_launch_ratio", 1.3, 1.1) for n in (2, 4)],
        [parallel(f"{n} GPUs: all ranks' graphs / torch and NCCL capturing",
                  f"capture_14B_{n}/all_ready_ratio", 0.1, 0.05) for n in (2, 4)],
        [parallel("switch TP 2 to TP 4, until the first token", "switch_2_4/switch_s", 3, 1,
                  unit="s")],
        [parallel("235B, one rank of 8: all graphs", "all_ready_s", 3.9, 1, LARGE, unit="s")],
        [parallel("235B, one rank of 8: first launch / bare start", "first_launch_ratio", 2.0, 1.3,
                  LARGE),
         parallel("235B, one rank of 8: bundle", "bundle_mb", 20, 10, LARGE, unit="MB"),
         parallel("235B, one rank of 8: capture on one GPU", "capture_minutes", 15, 5, LARGE,
                  unit="min")],
    ],
    "eight GPUs": [
        [parallel("8 GPUs, 235B: first token of all ranks / bare processes",
                  "start_bf16/first_token_ratio", REPORTED, file=EIGHT)],
        [parallel(f"8 GPUs, 235B in {kind}: decoding at batch {batch}",
                  f"decode_{kind}/batch_{batch}/tokens_per_second", REPORTED, file=EIGHT,
                  unit="tokens/s", higher=True)
         for kind in ("bf16", "fp8") for batch in (1, 8, 64)],
        [parallel("8 GPUs, 235B: gain of PARSE, acceptance 0.75, 8 at a time", "parse_pair/gain",
                  REPORTED, file=EIGHT, higher=True)],
        [parallel("8 GPUs: all-reduce / NCCL, 8 KiB to 64 MiB, the worst",
                  "allreduce_8/worst_over_nccl", REPORTED)],
        [parallel("8 GPUs: 32B decoding over vLLM", "throughput/32B_tp8/over_vllm", REPORTED,
                  file=SERVED, higher=True)],
        [parallel("8 GPUs: all ended after a rank was killed", "killed_bf16/killed_s", 10,
                  file=EIGHT, unit="s")],
    ],
    "judging": [
        [parse("real pair: AUC of verdicts on whole drafts", "auc/drafts", 0.88, 0.95, JUDGE,
               higher=True, cpu=True),
         parse("real pair: AUC of verdicts on prefixes", "auc/prefixes", 0.80, 0.90, JUDGE,
               higher=True, cpu=True)],
        [parse("real pair: accuracy lost", "accuracy_lost_points", 2, 0, JUDGE, unit="points",
               cpu=True)],
        [parse("real pair: right drafts kept whole at 5 % of wrong ones", "kept_at_5_percent",
               0.6, 0.85, JUDGE, higher=True, cpu=True)],
        [parse("real pair: gain on a CPU, one at a time", "gain", REPORTED, 1.2, JUDGE,
               higher=True, cpu=True)],
        [parse(f"real pair: gain predicted for {pair}", f"predicted_gain/{size}", REPORTED,
               file=JUDGE, higher=True, cpu=True)
         for size, pair in (("14B", "14B with 0.6B"), ("235B", "235B with 8B"))],
        [parse("real pair: questions that calibration needs", "calibration_questions", 100, 40,
               JUDGE, cpu=True)],
        [parse("verification with evidence / without, on a CPU", "evidence_cost", 1.02, 1.00, JUDGE,
               cpu=True),
         parse("verification with evidence / without, 14B", "evidence/evidence_cost", 1.02, 1.00,
               GEOMETRY)],
        [parse("trained pair: serving's gains within a point of accuracy", "batch_1", True,
               file=ARITH, figure=gains_without_loss)],
    ],
    "serving": [
        [serving(f"{size}: tokens/s over vLLM's, 1 to 256 at a time, the least",
                 f"throughput/{size}/over_vllm", 1.0, 1.2, higher=True)
         for size in ("0.6B", "14B")],
        [serving(f"70 % load: {share} {what} / vLLM's", f"poisson/{key}_{share}_over_vllm",
                 1.0, 0.8)
         for key, what in (("first_token", "to the first token"),
                           ("between_tokens", "between tokens"))
         for share in ("p50", "p99")],
        [serving("start to first token / vLLM's warm start", "start/over_vllm", 1 / 20, 1 / 40)],
        [serving("0.6B decode step at batch 1, device", "host/step_ms_1", 0.8, 0.65, GEOMETRY,
                 unit="ms"),
         serving("0.6B: host time beyond the graph at 1", "host/host_share_1", 0.10, 0.05,
                 GEOMETRY),
         serving("0.6B: host time beyond the graph at 64", "host/host_share_64", 0.10, 0.05,
                 GEOMETRY)],
        [serving("trained pair, one at a time: PARSE", "batch_1/methods/parse/gain", 4.3, 6, ARITH,
                 higher=True),
         serving("trained pair, one at a time: PARSE with EAGLE-3",
                 "batch_1/methods/parse+eagle3/gain", 4.5, 6.5, ARITH, higher=True)],
        [serving("trained pair, 16 at a time: best of ours / EAGLE-3 alone", "batch_16", 1.1, 1.4,
                 ARITH, higher=True, figure=over_eagle3)],
        [serving("14B, acceptance 0.75, batch 32: gain", "gain/gain_by_acceptance", 1.6, 2.0,
                 GEOMETRY, higher=True, figure=given_acceptance),
         serving("14B, acceptance 0.75, batch 32: gain without a question",
                 "gain/gain_by_acceptance", 1.6, 2.0, GEOMETRY, higher=True,
                 figure=given_acceptance_by_evidence),
         serving("14B, acceptance 0.75, batch 32: gain with EAGLE-3, without a question",
                 "gain/gain_by_acceptance", 1.6, 2.0, GEOMETRY, higher=True,
                 figure=given_acceptance_with_eagle3)],
        [serving("packages of the serving process, installed", "installed_mb", 200, 120,
                 "serve_size.json", unit="MB", cpu=True)],
        [serving(f"replica through Ray Serve{how} / the process's own start",
                 f"ratios/{way}/from_decision", 1.5, 1.2, file="serve_ray.json", cpu=True)
         for way, how in (("alone", ""), ("ahead", ", in a worker started ahead"),
                          ("standby", ", with a standby"))],
        [serving("requests lost or wrong in 20 minutes above capacity", "requests_lost", 0,
                 file="serve_soak.json", cpu=True)],
    ],
    "receiver of a radio": [
        [otfs("raw waveform in: SNR lost at 15, 20, 25 dB, the worst", "raw_loss_db", 1.0, 0.3,
              LINK, unit="dB", cpu=True)],
        [otfs("frames lost after a gap of 500 samples", "frames_lost_after_gap", 2, 1, LINK,
              cpu=True)],
        [otfs("with front end and LDPC: p99.9 / deadline", "coded/p99_9_over_deadline", 0.6, 0.35),
         otfs("with front end and LDPC: on time", "coded/on_time", 0.999, 1.0, higher=True)],
        [otfs("equalizer alone / roofline", EQUALIZER, 2.5, 1.5, "otfs_equalizer.json",
              figure=equalizer),
         otfs("equalizer alone / roofline of 28 iterations without a preconditioner", EQUALIZER,
              2.5, 1.5, "otfs_equalizer.json", figure=equalizer_over_plain)],
        [otfs("CPU, 1024x32: frame / deadline", "frame_over_deadline", 1.0, 0.5, CPU, cpu=True),
         otfs("CPU, 1024x32: frame / before native operators", "frame_over_before", 1 / 30, 1 / 80,
              CPU, cpu=True)],
        [otfs("kernels without clusters / with, neither preconditioned, the worst grid", "grids",
              1.5, 1.1, "otfs_mailbox.json", figure=without_clusters)],
        [otfs("coded: SNR lost against a reference decoder", "decoder_loss_db", 0.2, 0.05,
              "otfs_coding.json", unit="dB", cpu=True, figure=decoder_loss)],
    ],
}  # fmt: skip

TARGETS = [target for table in TABLES.values() for row in table for target in row]
