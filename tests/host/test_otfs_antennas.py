"""Several receive antennas by the native operators, and in a bundle that is run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryc.recorder import Recorder
from foundryrt.errors import FoundryError
from foundryrt.host import zak
from foundryrt.host.operators import operator
from foundryrt.native import zak_core
from otfs_pipeline import capture
from otfs_pipeline.frames import source, writing
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.native import NativeReceiver
from otfs_pipeline.receiver.quality import measure
from otfs_pipeline.settings import Settings
from tests.host.test_zak_operators import Guarded, arguments, links

COMMAND = "import sys; from foundryrt.cli import main; sys.argv[0] = 'foundryrt'; main()"
TWO = Settings(grid="64x32", antennas=2)


def native(link: Settings, samples: np.ndarray) -> dict[str, np.ndarray]:
    got = NativeReceiver(link)(torch.from_numpy(samples))
    return {name: tensor.numpy() for name, tensor in got.items()}


@pytest.mark.parametrize(
    ("changes", "snr_db"),
    [
        ({"grid": "64x32", "antennas": 2, "modulation": 4}, 5.0),
        ({"grid": "256x32", "antennas": 2}, 15.0),
        ({"grid": "256x32", "antennas": 4, "gain_model": "rayleigh"}, 15.0),
        ({"grid": "256x32", "antennas": 4, "pulse": "sinc"}, 15.0),
        ({"grid": "31x37", "antennas": 2, "nu_p": 30e3, "guard": 9, "max_taps": 64}, 20.0),
        ({"grid": "256x32", "antennas": 4, "pilot": "spread"}, 15.0),
    ],
)
def test_agrees_with_numpy(changes: dict[str, Any], snr_db: float) -> None:
    link = Settings(**changes)
    frame = source.simulate(link, snr_db, 3, 0)
    # Antennas of other gains have other noise, too.
    samples = frame.samples * np.array([1.0, 3.0, 0.2, 1.0], np.float32)[: link.antennas, None]
    samples[0] += source.simulate(replace(link, antennas=1), -100, 1, 0).samples * np.float32(1e-6)
    got = native(link, samples)
    exact = reference.receive(samples.astype(np.complex128), link, preconditioned=True)
    assert got["taps"].tolist() == [np.count_nonzero(e.taps.value) for e in exact.estimates]
    np.testing.assert_allclose(
        got["noise_variance"], [e.noise_variance for e in exact.estimates], rtol=1e-4
    )
    assert got["mu"] == pytest.approx(exact.mu, rel=1e-4)
    assert got["variance"] == pytest.approx(exact.variance, rel=1e-3)
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=1e-3)
    np.testing.assert_allclose(got["llr"], exact.llr, atol=1e-3 * np.abs(exact.llr).max())
    assert np.mean(got["bits"] != exact.bits) < 1e-4
    assert np.mean(got["bits"].ravel() != frame.bits) < 0.1


def test_one_antenna_of_two_dimensions_gives_the_same_bits() -> None:
    link = replace(TWO, antennas=1)
    frame = torch.from_numpy(source.simulate(link, 20.0, 3, 0).samples)
    flat = _operators(link, frame)
    row = _operators(link, frame[None])
    for one, other in zip(flat, row, strict=True):
        np.testing.assert_array_equal(one.numpy().ravel(), other.numpy().ravel())


def _operators(link: Settings, samples: torch.Tensor) -> list[torch.Tensor]:
    """All that estimate and equalize write."""
    a = arguments()
    antennas = samples.shape[:-1]
    found = {
        name: a["estimate"][name].new_zeros((*antennas, *a["estimate"][name].shape))
        for name in ("taps", "noise_variance", "kept")
    }
    operator("foundry::zak_estimate")(**a["estimate"] | {"samples": samples} | found)
    given = {name: found[name] for name in ("taps", "noise_variance")} | {"samples": samples}
    operator("foundry::zak_equalize")(**a["equalize"] | given)
    return [*found.values(), a["equalize"]["equalized"], a["equalize"]["bias"]]


def test_a_dead_antenna_changes_nothing_and_a_spoilt_one_shows() -> None:
    link = replace(TWO, antennas=4)
    samples = source.simulate(link, 10.0, 3, 0).samples
    alive = native(TWO, np.ascontiguousarray(samples[:2]))
    samples[2:] = 0
    got = native(link, samples)
    assert got["taps"].tolist() == [*alive["taps"], 0, 0]
    np.testing.assert_allclose(got["symbols"], alive["symbols"], atol=1e-5)
    # In the data, and in the window of taps.
    for position in (0, link.pilot_bin[0]):
        spoilt = samples.copy()
        spoilt[1, position] = np.nan
        got = native(link, spoilt)
        assert np.isnan(got["variance"]) and np.isnan(got["llr"]).all()
    assert np.isnan(native(link, np.zeros_like(samples))["variance"])


@settings(max_examples=30)
@given(links(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_any_link_stays_inside_its_arrays_on_all_lanes(
    link: zak_core.Link, antennas: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    m, n = link.delay_bins, link.doppler_bins
    window = (2 * link.doppler_reach + 1, link.window_delays)
    samples = Guarded((antennas, m * n), np.complex64)
    samples.array[:] = rng.standard_normal((antennas, m * n)) + 1j
    results = []
    for lanes in (4, 8, 16):
        if not zak_core.lanes(lanes):
            continue
        out = {
            name: Guarded(shape, dtype)
            for name, shape, dtype in (
                ("taps", (antennas, *window), np.complex64), ("noise", (antennas,), np.float32),
                ("kept", (antennas,), np.int64), ("equalized", (n, m), np.complex64),
                ("bias", (n,), np.float32),
            )
        }  # fmt: skip
        at = {name: one.at for name, one in out.items()}
        most = max(1, window[0] * window[1] // 2)
        zak_core.estimate(
            link, samples.at, 1.0, most, at["taps"], at["noise"], at["kept"], lanes, antennas
        )
        zak_core.equalize(
            link, 2, samples.at, at["taps"], at["noise"], 2, at["equalized"], at["bias"], lanes,
            antennas,
        )  # fmt: skip
        assert all(one.is_whole() for one in (samples, *out.values()))
        assert np.isfinite(out["noise"].array).all() and (out["kept"].array >= 0).all()
        results.append(out)
    for other in results[1:]:
        for name in ("noise", "bias"):
            np.testing.assert_allclose(other[name].array, results[0][name].array, rtol=1e-3)


@pytest.mark.parametrize("shape", [(0,), (5,), (2, 2)])
@pytest.mark.parametrize("name", ["estimate", "equalize"])
def test_other_numbers_of_antennas_are_refused(name: str, shape: tuple[int, ...]) -> None:
    good = arguments()[name]
    given = good | {
        key: good[key].new_zeros((*shape, *good[key].shape))
        for key in ("samples", "taps", "noise_variance", "kept")
        if key in good
    }
    assert not zak.CHECKS[f"foundry::zak_{name}"](given)
    with pytest.raises(FoundryError, match="do not fit"):
        operator(f"foundry::zak_{name}")(**given)


@pytest.mark.parametrize("key", ["taps", "noise_variance", "kept"])
def test_tensors_of_fewer_antennas_are_refused(key: str) -> None:
    good = arguments()["estimate"]
    given = good | {
        name: good[name].new_zeros((4, *good[name].shape))
        for name in ("samples", "taps", "noise_variance", "kept")
    }
    assert zak.CHECKS["foundry::zak_estimate"](given)
    fewer = given | {key: given[key][:3].contiguous()}
    assert not zak.CHECKS["foundry::zak_estimate"](fewer)
    assert not zak.CHECKS["foundry::zak_estimate"](given | {key: good[key]})


def test_the_core_refuses_more_antennas_than_it_has_room_for() -> None:
    a = arguments()["equalize"]
    at = [a[name].data_ptr() for name in ("samples", "taps", "noise_variance")]
    out = [a[name].data_ptr() for name in ("equalized", "bias")]
    link = zak_core.Link(**{name: a[name] for name in zak._FIELDS})
    for antennas in (0, -1, zak_core.MOST_ANTENNAS + 1):
        with pytest.raises(FoundryError, match="contradict each other"):
            zak_core.equalize(link, 1, *at, 3, *out, antennas=antennas)


def test_the_numbers_of_a_frame_are_those_of_each_antenna() -> None:
    samples = source.simulate(TWO, 20.0, 3, 0).samples
    samples[1, :32] = 0
    symbols = torch.ones(8, dtype=torch.complex64)
    got = measure(torch.from_numpy(samples), symbols, TWO)
    for antenna, row in enumerate(samples):
        alone = measure(torch.from_numpy(row), symbols, replace(TWO, antennas=1))
        for name in ("power", "peak", "clipped", "burst", "missing"):
            assert got[name].shape == (2,)
            assert got[name][antenna] == pytest.approx(float(alone[name]), rel=1e-6)
    assert got["missing"].tolist() == [0, 32]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("antennas") / "two.fdy"
    with Recorder(target="host", workload="otfs", settings=asdict(TWO)) as recorder:
        capture.record(recorder, TWO)
        recorder.save(path)
    return path


def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND, "run", str(bundle), "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_bundle_receives_what_a_recording_holds(bundle: Path, tmp_path: Path) -> None:
    frames = list(source.synthetic(TWO, 12.0, 7, 3))
    writing.write_recording(str(tmp_path / "two"), frames, TWO, 7)
    log = tmp_path / "log.jsonl"
    done = run(bundle, "--iq", str(tmp_path / "two.sigmf-meta"), "--frame-log", str(log))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    wrong = [np.mean(native(TWO, f.samples)["bits"].ravel() != f.bits) for f in frames]
    assert report["antennas"] == 2 and report["frames"] == report["ber_frames"] == 3
    assert report["ber"] == pytest.approx(np.mean(wrong))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(len(line["noise_variance"]) == 2 for line in lines)
    simulated = json.loads(run(bundle, "--frames", "3", "--snr", "12", "--seed", "7").stdout)
    assert simulated["ber"] == report["ber"]


def test_a_bundle_refuses_waveforms_and_other_channels(bundle: Path, tmp_path: Path) -> None:
    link = replace(TWO, antennas=1)
    writing.write_recording(str(tmp_path / "one"), [source.simulate(link, 20, 1, 0)], link, 1)
    done = run(bundle, "--iq", str(tmp_path / "one.sigmf-data"))
    assert done.returncode == 1 and "the bundle receives 2" in done.stderr
    done = run(bundle, "--raw", "--udp", "127.0.0.1:0")
    assert done.returncode == 2 and "waveform of one antenna" in done.stderr


def test_with_a_prefix_a_dead_antenna_changes_nothing() -> None:
    link = Settings(grid="64x32", antennas=4, waveform="cp")
    samples = source.simulate(link, 10.0, 3, 0).samples
    alive = native(replace(link, antennas=2), np.ascontiguousarray(samples[:2]))
    samples[2:] = 0
    got = native(link, samples)
    assert got["taps"].tolist() == [*alive["taps"], 0, 0]
    np.testing.assert_allclose(got["symbols"], alive["symbols"], atol=1e-5)
    assert np.isnan(native(link, np.zeros_like(samples))["variance"])
