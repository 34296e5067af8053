"""The benchmarks by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """A module of this package with a function `run`, whose parameters are the options."""

    name: str
    module: str
    about: str
    """What it measures, in one line."""
    writes: str = ""
    """The results file, unless --output names another one."""
    gpu: bool = False
    """Whether it needs an NVIDIA GPU."""


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "cold-start", "start.cold",
            "first launch and all graphs from a bundle, beside torch capturing them",
            "cold_start.json", gpu=True,
        ),
        Benchmark(
            "relocate", "start.relocate",
            "graphs at another base, captures with proof, a switch of bundles, standby",
            "relocate.json", gpu=True,
        ),
        Benchmark(
            "foreign", "start.foreign",
            "programs with memory of their own, captured and run at another base",
            "foreign.json", gpu=True,
        ),
        Benchmark(
            "engine", "start.engine",
            "vLLM with its decode graphs from a bundle, beside vLLM that captures them",
            "engine.json", gpu=True,
        ),
        Benchmark(
            "tensor-parallel", "parallel.run",
            "ranks on several GPUs: exchanges beside NCCL's, decoding beside one GPU, starting",
            "tp.json", gpu=True,
        ),
        Benchmark(
            "arith-ranks", "arith.ranks",
            "the trained pair on several ranks: answers that differ from one rank's, and by what",
            "tp.json",
        ),
        Benchmark(
            "eight-gpus", "parallel.eight",
            "Qwen3-235B over the eight GPUs of a host: start, decoding, PARSE, a rank killed",
            "tp8.json",
        ),
        Benchmark(
            "rank-share", "start.share",
            "what one of 8 ranks has of Qwen3-235B: captured on one GPU, and started",
            "tp235b.json", gpu=True,
        ),
        Benchmark(
            "instantiate", "start.instantiate", "ways to make executable graphs, by driver calls",
            "instantiate.json", gpu=True,
        ),
        Benchmark(
            "dequantized", "start.dequantized", "filling weights from a GGUF file, with and without"
            " what an earlier start dequantized", "dequantized.json",
        ),
        Benchmark(
            "rank-weights", "start.rank_weights", "filling the weights of several ranks at once on"
            " the CPU: each takes all digests, or they share them out", "rank_weights.json",
        ),
        Benchmark("timeline", "start.timeline", "draws docs/materialize.svg of cold_start.json"),
        Benchmark(
            "cache", "cache.bundles", "cache hits against cp, keys a second, single flight",
            "cache.json",
        ),
        Benchmark(
            "serve", "serving.serve",
            "our server beside vLLM's on one GPU: starting, tokens a second, Poisson arrivals",
            "serve.json",
        ),
        Benchmark(
            "serve-host", "serving.host",
            "processor time of a token in our server, from the pass to the socket",
            "serve_host.json",
        ),
        Benchmark(
            "serve-ray", "serving.ray_replica",
            "a replica through Ray Serve to its first token, beside the process's own start",
            "serve_ray.json",
        ),
        Benchmark(
            "serve-degree", "serving.degree",
            "our server from two ranks to four: from the command to the first token by them",
            "tp.json",
        ),
        Benchmark(
            "serve-soak", "serving.soak",
            "requests lost or wrong above our server's capacity, with switches and restarts",
            "serve_soak.json",
        ),
        Benchmark(
            "serve-size", "serving.size", "what the serving process's packages take on disk",
            "serve_size.json",
        ),
        Benchmark(
            "otfs", "receiver.frames",
            "the receiver at frame pace and flat out, stages, roofline, baselines",
            "otfs.json", gpu=True,
        ),
        Benchmark(
            "otfs-links", "receiver.links",
            "kernels and bit error rates of each kind of link: pilots, a cyclic prefix",
            "otfs_links.json", gpu=True,
        ),
        Benchmark(
            "otfs-mailbox", "receiver.mailbox",
            "the equalizer without clusters, as older GPUs have it, beside that with clusters",
            "otfs_mailbox.json", gpu=True,
        ),
        Benchmark(
            "otfs-equalizer", "receiver.equalizer",
            "the equalizer with and without its preconditioner: time, bit errors, rooflines",
            "otfs_equalizer.json", gpu=True,
        ),
        Benchmark(
            "otfs-predicted", "receiver.predicted",
            "frame times of GPUs that are not here, from counts and data sheets: none is measured",
            "otfs_predicted.json",
        ),
        Benchmark(
            "otfs-sweep", "receiver.sweep", "divisions of the equalizer among blocks and threads",
            "otfs_sweep.json", gpu=True,
        ),
        Benchmark(
            "otfs-triton", "receiver.triton_products", "the equalizer's iterations in Triton",
            "otfs_triton.json", gpu=True,
        ),
        Benchmark(
            "otfs-cpu", "receiver.cpu",
            "the receiver on the CPU: native operators beside the torch operators before them",
            "otfs_cpu.json",
        ),
        Benchmark(
            "otfs-loss", "receiver.loss", "SNR that the equalizer loses against exact LMMSE",
            "otfs_loss.json",
        ),
        Benchmark(
            "otfs-floor", "receiver.floor", "bit errors that iterations leave without noise",
            "otfs_floor.json",
        ),
        Benchmark(
            "otfs-reference", "receiver.reference", "bit error rates of the numpy receiver",
            "otfs_reference.json",
        ),
        Benchmark(
            "otfs-precondition", "receiver.precondition",
            "iterations that preconditioned conjugate gradients need",
            "otfs_precondition.json",
        ),
        Benchmark(
            "otfs-live", "receiver.live", "what `foundryrt run --live` costs the receiver on a CPU",
            "otfs_live.json",
        ),
        Benchmark(
            "otfs-raw", "receiver.raw", "SNR and frames that the front end loses, its time a frame",
            "otfs_link.json",
        ),
        Benchmark(
            "otfs-reading", "receiver.reading",
            "time of the thread that reads a waveform for the graph with the front end",
            "otfs_reading.json",
        ),
        Benchmark(
            "otfs-antennas", "receiver.antennas",
            "bit error rates with one, two and four antennas, and what they gain",
            "otfs_antennas.json",
        ),
        Benchmark(
            "otfs-coding", "receiver.coding",
            "block errors of the LDPC decoder beside float belief propagation",
            "otfs_coding.json",
        ),
        Benchmark(
            "parse-geometry", "parse.geometry",
            "decoding, verification and gains at real geometry, beside transformers",
            "parse_geometry.json",
        ),
        Benchmark(
            "parse-linear", "parse.linear", "matrix products and experts against the bandwidth",
            "parse_linear.json", gpu=True,
        ),
        Benchmark(
            "parse-fp8", "parse.fp8",
            "products with weights in FP8: rows in bfloat16, and in FP8, too", "parse_fp8.json",
            gpu=True,
        ),
        Benchmark(
            "parse-attention", "parse.attention", "attention and sampling against torch's own",
            "parse_kernels.json", gpu=True,
        ),
        Benchmark(
            "parse-merge", "parse.merge", "merges the figures of PARSE, without measuring",
            "parse.json",
        ),
        Benchmark(
            "arith", "arith.evaluate", "accuracy and throughput of the arithmetic pair",
            "parse_arith.json",
        ),
        Benchmark(
            "parse-judge", "judge.evaluate",
            "verdicts of a pair of models, and PARSE by them beside its rivals",
            "parse_judge.json",
        ),
        Benchmark(
            "judge-gather", "judge.gather",
            "drafts of a pair on a CPU, with all that the target says of them",
        ),
        Benchmark("judge-humaneval", "judge.humaneval", "the short questions of HumanEval"),
        Benchmark("judge-ask", "judge.ask", "other questions to the judge about gathered drafts"),
        Benchmark("judge-transfer", "judge.transfer", "drafts of other questions by the same fit"),
        Benchmark("judge-fly", "judge.fly", "answers of a pair by FLy on a CPU"),
        Benchmark("judge-units", "judge.units", "what each pass of a pair takes on a CPU"),
        Benchmark(
            "judge-pair", "judge.pair",
            "verdicts, accuracy and predicted speeds of a pair, from gathered drafts",
            "parse_judge.json",
        ),
        Benchmark("judge-plot", "judge.plot", "draws docs/parse-judge.svg of parse_judge.json"),
        Benchmark("arith-train", "arith.train", "trains the arithmetic pair"),
        Benchmark("arith-plot", "arith.plot", "draws docs/parse-arith.svg of parse_arith.json"),
    )
}  # fmt: skip
