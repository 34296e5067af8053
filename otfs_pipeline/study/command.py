"""Link-level study: BER over SNR of LMMSE, CG and truncated channels, known and estimated.

    python -m otfs_pipeline.study [--frames 40] [--output FILE.json] [--plot FILE.svg] [--json]
    python -m otfs_pipeline.study --backend dask --cluster tcp://scheduler:8786 --output FILE.json

--link GRID@NU_P compares equalizers with the channel known and data in every bin; --pilot-link
compares a known channel with the pilot's estimate. Within a link every receiver sees the same
frames. --code-rate adds links whose frames are coded: bit errors before the LDPC decoder, and the
shares of blocks and frames with errors after it. --pilot point spread compares pilots, by bit
errors and by the peak-to-average power of their frames on the air, --waveform zak cp frames with a
cyclic prefix. Intervals are 95 % percentile bootstraps over frames.

The frames are shared among processes, whose number changes no result. With --output each one
is kept in FILE.json.points as it is finished: the same command, or one with more frames, goes on
from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.atomic import AtomicFile
from foundryrt.console import as_json, print_json, write
from foundryrt.errors import UsageError
from otfs_pipeline import plots
from otfs_pipeline.arguments import HelpWithDefaults, exit_code, natural, positive
from otfs_pipeline.study.measure import study
from otfs_pipeline.study.workers import BACKENDS


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit code."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _main(options))


def _main(options: argparse.Namespace) -> None:
    if options.plot:
        plots.new_figure(options.plot)  # a missing matplotlib is an error before the study
    result = study(options)
    if options.output:
        _write(options.output, as_json(result))
    if options.plot:
        _plot(options.plot, result)
    if options.json:
        print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    for entry in _entries(result):
        rate = f", code rate {entry['code_rate']:g}" if "code_rate" in entry else ""
        write(f"{_title(entry)}{rate}\n")
        if "papr_db" in entry:
            write(f"  {'PAPR':14} {entry['papr_db']['mean']:.2f} dB\n")
        for name, points in _curves(entry).items():
            row = "  ".join(
                f"{snr:g} dB {p['mean']:.2e}"
                for snr, p in zip(entry["snr_db"], points, strict=True)
            )
            loss = entry.get("snr_loss_db", {}).get(name, {}).get("mean")
            lost = f"  loss {loss:+.3f} dB" if loss is not None else ""
            write(f"  {name:14} {row}{lost}\n")


def _title(entry: dict[str, Any]) -> str:
    antennas = f", {entry['antennas']} antennas" if entry["antennas"] > 1 else ""
    pilot = f", {entry['pilot']} pilot" if entry["pilot"] != "point" else ""
    prefix = ", cyclic prefix" if entry["waveform"] == "cp" else ""
    kind = f"{entry['modulation']}-QAM{antennas}{pilot}{prefix}"
    return f"{entry['grid']}, {kind}, {entry['frames']} frames"


def _entries(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [*result["perfect_csi"], *result["embedded_pilot"], *result["coded"]]


def _curves(entry: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Bit error rates by receiver and, of coded links, error rates of blocks and frames."""
    curves: dict[str, list[dict[str, Any]]] = entry["ber"] | entry.get("error_rate", {})
    return curves


def _plot(path: str, result: dict[str, Any]) -> None:
    entries = _entries(result)
    figure, axes = plots.new_figure(path, len(entries), (5 * len(entries), 4.5))
    for axis, entry in zip(np.atleast_1d(axes), entries, strict=True):
        for name, points in _curves(entry).items():
            mean = np.array([p["mean"] for p in points])
            bounds = np.array([p["ci95"] or (p["mean"], p["mean"]) for p in points]).T
            axis.errorbar(entry["snr_db"], mean, np.abs(bounds - mean), label=name, capsize=2)
        axis.axhline(result["target_ber"], color="gray", linewidth=0.5)
        axis.set(
            title=_title(entry),
            xlabel="SNR in dB", ylabel="error rate" if "code_rate" in entry else "bit error rate",
            yscale="log",
        )  # fmt: skip
        axis.legend()
    plots.save(figure, path)


def _write(path: str, text: str) -> None:
    try:
        with AtomicFile(Path(path)) as out:
            out.file.write(text.encode())
            out.commit()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m otfs_pipeline.study", description=__doc__)
    parser.formatter_class = HelpWithDefaults
    add = parser.add_argument
    add("--link", nargs="*", default=["31x37@30e3", "64x32@15e3"], help="GRID@NU_P, NU_P in Hz")
    add("--pilot-link", nargs="*", default=["1024x32@15e3"], help="GRID@NU_P")
    add("--snr", nargs="+", type=float, default=[21.0, 23.0, 25.0], help="in dB, rising")
    add(
        "--pilot-snr", nargs="+", type=float, default=[16.0, 18.0, 20.0, 22.0], help="in dB, rising"
    )
    add("--frames", type=positive, default=40, help="for each --link")
    add("--pilot-frames", type=positive, default=10, help="for each --pilot-link")
    add("--iterations", nargs="*", type=positive, default=[10, 20, 24], help="K beside the default")
    add(
        "--truncation",
        nargs="*",
        type=_share,
        default=[0.99, 0.999, 0.9999],
        help="shares of the energy",
    )
    add("--code-rate", type=_rate, default=0.0, help="code each --pilot-link too, 0: not")
    add("--antennas", nargs="+", type=positive, default=[1], help="of each --pilot-link: 1, 2, 4")
    add("--pilot", nargs="+", default=["point"], help="of each --pilot-link: point, spread")
    add("--waveform", nargs="+", default=["zak"], help="of each --pilot-link: zak, cp")
    add("--clip-db", type=_decibels, default=0.0, help="clip frames so far over their rms")
    add("--modulation", type=int, default=16, help="4, 16 or 64")
    add("--channel", default="vehicular-a", help="see foundryrt options")
    add("--gain-model", default="fixed", help="fixed or rayleigh")
    add("--nu-max", type=float, default=815.0, help="in Hz")
    add("--pulse", default="rrc", help="rrc or sinc")
    add("--rolloff", type=float, default=0.6, help="of the rrc pulse")
    add("--seed", type=natural, default=1, help="of payload, channel and noise")
    add("--jobs", type=natural, default=0, help="processes; 0: as many as there are processors")
    add("--backend", choices=BACKENDS, default="loky", help="processes here, or a cluster's")
    add("--cluster", default="", help="address of the cluster; without, it is this machine's")
    add("--output", default="", help="write the results here as JSON")
    add("--plot", default="", help="write the curves here, .svg or .png")
    add("--json", action="store_true", help="results as JSON on stdout")
    return parser


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: use a code rate, such as 0.5")
    return value


def _decibels(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text}: use 0 (not) to 100 dB")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: use a share of the energy, above 0 to 1")
    return value
