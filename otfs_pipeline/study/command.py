"""Link-level study: BER over SNR of LMMSE, CG and truncated channels, known and estimated.

    python -m otfs_pipeline.study [--frames 40] [--output FILE.json] [--plot FILE.svg] [--json]

--link GRID@NU_P compares equalizers with the channel known and data in every bin; --pilot-link
compares a known channel with the pilot's estimate. Within a link every receiver sees the same
frames. Intervals are 95 % percentile bootstraps over frames.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.atomic import AtomicFile
from foundryrt.console import print_json
from foundryrt.errors import UsageError
from otfs_pipeline import linklevel, plots
from otfs_pipeline.arguments import HelpWithDefaults, exit_code, natural, positive
from otfs_pipeline.bootstrap import interval, snr_at
from otfs_pipeline.profile import Profile, find
from otfs_pipeline.progress import Bar
from otfs_pipeline.settings import Settings

TARGET_BER = 1e-2


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit code."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _main(options))


def _main(options: argparse.Namespace) -> None:
    if options.plot:
        plots.new_figure(options.plot)  # what is missing is said now, not after the study
    result = study(options)
    if options.output:
        _write(options.output, json.dumps(result, indent=1) + "\n")
    if options.plot:
        _plot(options.plot, result)
    if options.json:
        print_json(result)
    else:
        _print(result)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that `options` asks for, as it is stored."""
    profile = find(options.channel)
    links = [_link(text, options) for text in options.link]
    pilots = [_link(text, options) for text in options.pilot_link]
    for link in (*links, *pilots):
        profile.check(link)
    bar = Bar("simulating", options.frames * len(links) + options.pilot_frames * len(pilots))
    known, estimated = [], []
    for link in links:

        def equalizers(rng: np.random.Generator, link: Settings = link) -> linklevel.Errors:
            counts = sorted({*options.iterations, link.iterations})
            return linklevel.equalizers(link, profile, options.snr, counts, options.truncation, rng)

        errors = _frames(equalizers, options.frames, options.seed, bar)
        entry = _entry(link, profile, options.snr, errors)
        if "lmmse" in errors:
            entry["snr_loss_db"] = _losses(np.array(options.snr), errors)
        known.append(entry)
    for link in pilots:

        def estimation(rng: np.random.Generator, link: Settings = link) -> linklevel.Errors:
            return linklevel.estimation(link, profile, options.pilot_snr, rng)

        errors = _frames(estimation, options.pilot_frames, options.seed, bar)
        estimated.append(_entry(link, profile, options.pilot_snr, errors))
    bar.close()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{processor()}, numpy {np.__version__}, float64",
        "interval": "95 % percentile bootstrap over frames, 2000 resamples",
        "target_ber": TARGET_BER,
        "perfect_csi": known,
        "embedded_pilot": estimated,
    }


def _link(text: str, options: argparse.Namespace) -> Settings:
    grid, _, period = text.partition("@")
    try:
        nu_p = float(period) if period else 15e3
    except ValueError:
        raise UsageError(f"link {text!r}: write GRID@NU_P, such as 31x37@30e3") from None
    return Settings(
        grid=grid,
        nu_p=nu_p,
        nu_max=options.nu_max,
        pulse=options.pulse,
        rolloff=options.rolloff,
        modulation=options.modulation,
        gain_model=options.gain_model,
    )


def _frames(
    one: Callable[[np.random.Generator], linklevel.Errors], count: int, seed: int, bar: Bar
) -> dict[str, np.ndarray]:
    """BER [frames, SNRs] of each receiver."""
    rows = []
    for index in range(count):
        rows.append(one(np.random.default_rng([seed, index])))
        bar.advance()
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _entry(
    link: Settings, profile: Profile, snrs: list[float], errors: dict[str, np.ndarray]
) -> dict[str, Any]:
    return {
        "grid": link.grid,
        "nu_p": link.nu_p,
        "channel": profile.name,
        "nu_max": link.nu_max,
        "gain_model": link.gain_model,
        "pulse": link.pulse,
        "rolloff": link.rolloff,
        "modulation": link.modulation,
        "default_iterations": link.iterations,
        "frames": len(next(iter(errors.values()))),
        "snr_db": snrs,
        "ber": {
            name: [
                {"mean": float(column.mean()), "ci95": interval(column, np.mean)}
                for column in values.T
            ]
            for name, values in errors.items()
        },
    }


def _losses(snrs: np.ndarray, errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """By receiver: SNR at TARGET_BER above LMMSE's in dB; None where the points do not cover it."""
    losses = {}
    for name, values in errors.items():
        both = np.stack([errors["lmmse"], values], axis=1)

        def loss(frames: np.ndarray) -> float:
            lmmse, other = frames.mean(axis=0)
            return snr_at(TARGET_BER, snrs, other) - snr_at(TARGET_BER, snrs, lmmse)

        found = loss(both)
        losses[name] = {
            "mean": found if np.isfinite(found) else None,
            "ci95": interval(both, loss),
        }
    return losses


def _print(result: dict[str, Any]) -> None:
    for entry in (*result["perfect_csi"], *result["embedded_pilot"]):
        print(f"{entry['grid']}, {entry['modulation']}-QAM, {entry['frames']} frames")
        for name, points in entry["ber"].items():
            row = "  ".join(
                f"{snr:g} dB {p['mean']:.2e}"
                for snr, p in zip(entry["snr_db"], points, strict=True)
            )
            loss = entry.get("snr_loss_db", {}).get(name, {}).get("mean")
            print(f"  {name:14} {row}" + (f"  loss {loss:+.3f} dB" if loss is not None else ""))


def _plot(path: str, result: dict[str, Any]) -> None:
    entries = [*result["perfect_csi"], *result["embedded_pilot"]]
    figure, axes = plots.new_figure(path, len(entries), (5 * len(entries), 4.5))
    for axis, entry in zip(np.atleast_1d(axes), entries, strict=True):
        for name, points in entry["ber"].items():
            mean = np.array([p["mean"] for p in points])
            bounds = np.array([p["ci95"] or (p["mean"], p["mean"]) for p in points]).T
            axis.errorbar(entry["snr_db"], mean, np.abs(bounds - mean), label=name, capsize=2)
        axis.axhline(result["target_ber"], color="gray", linewidth=0.5)
        axis.set(
            title=f"{entry['grid']}, {entry['modulation']}-QAM, {entry['frames']} frames",
            xlabel="SNR in dB", ylabel="bit error rate", yscale="log",
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


def processor() -> str:
    """The CPU's name, where it is known."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
    add("--modulation", type=int, default=16, help="4, 16 or 64")
    add("--channel", default="vehicular-a", help="see foundryrt options")
    add("--gain-model", default="fixed", help="fixed or rayleigh")
    add("--nu-max", type=float, default=815.0, help="in Hz")
    add("--pulse", default="rrc", help="rrc or sinc")
    add("--rolloff", type=float, default=0.6, help="of the rrc pulse")
    add("--seed", type=natural, default=1, help="of payload, channel and noise")
    add("--output", default="", help="write the results here as JSON")
    add("--plot", default="", help="write the curves here, .svg or .png")
    add("--json", action="store_true", help="results as JSON on stdout")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: use a share of the energy, above 0 to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
