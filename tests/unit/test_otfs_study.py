"""The link-level study: truncation, bootstrap, interpolation, and a small run of the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.settings import Settings
from otfs_pipeline.study import command, linklevel
from otfs_pipeline.study.bootstrap import interval, snr_at

STORED = Path(__file__).parents[2] / "benchmarks" / "results" / "otfs_study.json"


def test_truncation_keeps_the_strongest_taps_of_a_share() -> None:
    value = np.sqrt(np.array([1.0, 90.0, 4.0, 5.0]))
    taps = Taps(value, np.arange(4), np.zeros(4, int))
    for share, kept in ((0.9, [1]), (0.95, [1, 3]), (0.96, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        assert sorted(linklevel.truncated(taps, share - 1e-9).delay) == kept


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(3), 0
    for trial in range(100):
        low, high = interval(rng.exponential(1.0, (60, 1)), np.mean, trial)
        covered += low <= 1 <= high
    assert 85 <= covered <= 99


def test_an_undefined_statistic_has_no_interval() -> None:
    assert interval(np.ones((5, 1)), lambda _: float("nan")) is None


def test_snr_at_a_bit_error_rate() -> None:
    snrs = np.array([10.0, 20.0, 30.0])
    assert snr_at(1e-2, snrs, np.array([1e-1, 1e-3, 1e-5])) == pytest.approx(15)
    assert snr_at(1e-2, snrs, np.array([1e-1, 1e-2, 1e-4])) == pytest.approx(20)
    for ber in ([1e-3, 1e-4, 1e-5], [1e-1, 5e-2, 2e-2], [1e-1, 0.0, 0.0]):
        assert np.isnan(snr_at(1e-2, snrs, np.array(ber)))


def test_converged_cg_has_the_errors_of_lmmse(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Settings(grid="31x37", nu_p=30e3)
    rng = np.random.default_rng(5)
    found = linklevel.equalizers(link, VEHICULAR_A, [20.0], [60], [1.0], rng)
    # 60 iterations have converged; all of the energy is all of the taps.
    assert found["cg60"][0] == pytest.approx(found["lmmse"][0], rel=0.1)
    assert found["taps 100.00%"][0] == pytest.approx(found["lmmse"][0], rel=0.3)
    monkeypatch.setattr(linklevel, "LMMSE_BINS", 100)
    assert "lmmse" not in linklevel.equalizers(link, VEHICULAR_A, [20.0], [1], [], rng)


def test_a_small_study_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, plot = tmp_path / "study.json", tmp_path / "study.svg"
    arguments = ["--link", "31x37@30e3", "--pilot-link", "64x32", "--frames", "3", "--snr", "18",
                 "23", "--pilot-frames", "2", "--pilot-snr", "20", "--iterations", "8",
                 "--truncation", "0.99", "--output", str(output), "--plot", str(plot)]  # fmt: skip
    assert command.main(arguments) == 0
    result = json.loads(output.read_text())
    known, pilot = result["perfect_csi"][0], result["embedded_pilot"][0]
    assert list(known["ber"]) == ["lmmse", "cg8", "cg28", "taps 99.00%"]
    assert known["ber"]["lmmse"][0]["mean"] > known["ber"]["lmmse"][1]["mean"]
    assert known["ber"]["cg8"][1]["mean"] > known["ber"]["cg28"][1]["mean"]
    low, high = known["ber"]["cg28"][0]["ci95"]
    assert low <= known["ber"]["cg28"][0]["mean"] <= high
    assert known["snr_loss_db"]["lmmse"]["mean"] == 0
    assert set(pilot["ber"]) == {"perfect", "estimated"} and pilot["frames"] == 2
    # A point's pulses are as strong as the strip has delays, and hardly a symbol's pulse is wider.
    assert pilot["papr_db"]["mean"] == pytest.approx(10 * np.log10(pilot["guard_bins"]), abs=1.5)
    assert plot.read_text().startswith("<?xml")
    assert "loss" in capsys.readouterr().out


def test_pilots_are_compared_by_errors_and_peaks(tmp_path: Path) -> None:
    output = tmp_path / "pilots.json"
    arguments = ["--link", "--pilot-link", "256x32", "--pilot", "point", "spread", "--clip-db", "9",
                 "--pilot-frames", "2", "--pilot-snr", "20", "--jobs", "1",
                 "--output", str(output)]  # fmt: skip
    assert command.main(arguments) == 0
    point, spread = json.loads(output.read_text())["embedded_pilot"]
    assert (point["pilot"], spread["pilot"]) == ("point", "spread")
    assert point["clip_db"] == spread["clip_db"] == 9
    assert spread["papr_db"]["mean"] < point["papr_db"]["mean"] - 4
    ber = [{name: values[0]["mean"] for name, values in one["ber"].items()}
           for one in (point, spread)]  # fmt: skip
    assert ber[1]["estimated"] < 1.3 * ber[1]["perfect"]
    assert ber[1]["clipped"] < 1.2 * ber[1]["estimated"]
    assert ber[0]["clipped"] > 2 * ber[0]["estimated"]


def test_clipping_keeps_what_is_below() -> None:
    samples = np.array([3.0, 4.0j, 0.0, 10 - 10j])
    rms = np.sqrt(np.mean(np.abs(samples) ** 2))
    got = linklevel.clipped(samples, 0.0)
    np.testing.assert_allclose(got, [3, 4j, 0, rms * (1 - 1j) / np.sqrt(2)])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--pilot", "line"], "point or spread"),
        (["--link", "31x37@x"], "GRID@NU_P"),
        (["--link", "4x4"], "guard"),
        (["--channel", "tdl-a"], "tdl-a"),
        (["--modulation", "8"], "modulation"),
    ],
)
def test_what_cannot_be_studied(arguments, reason, capsys) -> None:
    assert command.main(["--frames", "1", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_seed_below_0_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--seed", "-1"])
    assert "--seed: -1: use 0 or more" in capsys.readouterr().err


@pytest.mark.skipif(not STORED.exists(), reason="no stored study")
@pytest.mark.parametrize("grid", ["31x37", "64x32"])
def test_the_stored_loss_of_cg_is_within_the_goal(grid: str) -> None:
    stored = json.loads(STORED.read_text())
    entry = next(e for e in stored["perfect_csi"] if e["grid"] == grid)
    assert entry["modulation"] == 16 and entry["frames"] >= 30
    assert entry["default_iterations"] == Settings().cg_iterations
    assert entry["snr_loss_db"][f"cg{Settings().cg_iterations}"]["mean"] <= 0.2


def test_missing_matplotlib_is_said_before_the_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(command, "study", lambda options: pytest.fail("has begun"))
    assert command.main(["--plot", "study.svg"]) == 1
    assert "pip install 'foundry-graphs[otfs]'" in capsys.readouterr().err
