"""The CUDA kernels, run on the CPU, against the float64 receiver that steps each period alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.receiver import sweep
from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.platforms import HOPPER
from otfs_pipeline.settings import Settings
from tests.gpu.otfs_rounding import bounds
from tests.host.kernels_on_cpu import receive

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")


@pytest.mark.parametrize(
    ("changes", "snr_db", "close"),
    [
        ({"grid": "64x32"}, 20.0, 1e-4),
        # Few steps where few suffice: more would only divide rounding errors.
        (
            {"grid": "64x32", "modulation": 4, "pulse": "sinc", "guard": 31, "iterations": 8},
            10.0,
            1e-4,
        ),
        # Doppler bins that 4 divides, that 2 divides, odd, as many as fit.
        ({"grid": "31x37", "nu_p": 30e3, "iterations": 6}, 25.0, 1e-4),
        ({"grid": "31x30", "nu_p": 30e3, "iterations": 6}, 25.0, 1e-4),
        ({"grid": "31x128", "nu_p": 30e3, "modulation": 64, "iterations": 6}, 30.0, 1e-4),
        ({"grid": "256x32", "modulation": 64, "max_taps": 40, "iterations": 30}, 30.0, 1e-4),
        # Coefficients are held over three samples here: see Geometry.
        ({"grid": "1024x32", "iterations": 10}, 20.0, 5e-3),
        # Noise, too, counts as taps: long runs of delays, and more taps than are kept.
        ({"grid": "1024x32", "iterations": 2, "tap_sigmas": 1.0, "max_taps": 150}, 20.0, 5e-3),
    ],
)
def test_kernels_agree_with_numpy(
    changes: dict[str, Any], snr_db: float, close: float, tmp_path: Path
) -> None:
    link = Settings(**changes)
    frame = source.simulate(link, snr_db, 3, 0)
    geometry = Geometry.of(link)
    got = receive(frame.samples, geometry, tmp_path)
    exact = reference.receive(
        frame.samples.astype(np.complex128), link, periods=True, blocks=geometry.blocks
    )
    assert _grouped(got["groups"], geometry.group) == sorted(_delays(exact.estimate.taps))
    assert got["taps"] == np.count_nonzero(exact.estimate.taps.value)
    assert got["noise_variance"] == pytest.approx(exact.estimate.noise_variance, rel=1e-5)
    assert got["mu"] == pytest.approx(exact.mu, rel=1e-4)
    assert got["variance"] == pytest.approx(exact.variance, rel=1e-2)
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=close)
    np.testing.assert_allclose(got["llr"], exact.llr, atol=10 * close * np.abs(exact.llr).max())
    np.testing.assert_array_equal(got["bits"], got["llr"] < 0)
    assert np.mean(got["bits"] != exact.bits) < 1e-3
    assert np.mean(got["bits"].ravel() != frame.bits) < 0.2


def _delays(taps: Taps) -> set[int]:
    return set(taps.delay[taps.value != 0].tolist())


def _grouped(groups: np.ndarray, longest: int) -> list[int]:
    starts, slots = groups[1::2], groups[2::2]
    delays = []
    for index in range(groups[0]):
        length = slots[index + 1] - slots[index]
        assert slots[index] == len(delays)
        assert 1 <= length <= longest
        delays += range(starts[index], starts[index] + length)
    return delays


@pytest.mark.parametrize(
    ("each", "group", "cluster"), [(3, 3, 2), (1, 2, 3), (5, 6, 1), (1, 1, 7), (3, 9, 4)]
)
def test_every_division_gives_the_same(each: int, group: int, cluster: int, tmp_path: Path) -> None:
    link = Settings(grid="256x32", nu_max=100.0, doppler_reach=4, iterations=8)
    frame = source.simulate(link, 20.0, 4, 0)
    got = receive(frame.samples, Geometry(link, each, group, cluster), tmp_path)
    exact = reference.receive(frame.samples.astype(np.complex128), link, periods=True)
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=2e-2 if each > 1 else 1e-4)


@pytest.mark.parametrize(("each", "group", "cluster"), [(11, 4, 3), (21, 8, 3), (9, 4, 7)])
def test_blocks_with_inner_and_outer_warps(
    each: int, group: int, cluster: int, tmp_path: Path
) -> None:
    # As those of 16384x32: some warps wait for the neighbours' edges, some do not.
    link = Settings(grid="4096x12", iterations=12)
    geometry = Geometry(link, each, group, cluster)
    assert 32 * each + geometry.halo < geometry.span
    frame = source.simulate(link, 20.0, 5, 0)
    got = receive(frame.samples, geometry, tmp_path)
    exact = reference.receive(
        frame.samples.astype(np.complex128), link, periods=True, blocks=geometry.blocks
    )
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=2e-2)
    assert np.mean(got["bits"] != exact.bits) < 1e-3
    wrong = np.mean(got["bits"].ravel() != frame.bits)
    assert wrong == pytest.approx(np.mean(exact.bits.ravel() != frame.bits), rel=5e-3)


@pytest.mark.parametrize(
    ("grid", "division", "stretch", "order"),
    [
        ("256x32", (1, 4, 3), 1, 512),
        ("256x32", (3, 4, 1), 1, 512),
        ("1024x32", (3, 4, 2), 1, 1024),
        ("4096x12", (11, 4, 3), 1, 2048),
        ("4096x12", (9, 4, 2), 2, 4096),
        # A pair of threads shares the last samples of a DFT.
        ("4096x12", (9, 4, 1), 4, 8192),
    ],
)
def test_the_preconditioner_agrees_with_numpy(
    grid: str,
    division: tuple[int, int, int],
    stretch: int,
    order: int,
    tmp_path: Path,
) -> None:
    link = Settings(grid=grid, iterations=24)
    geometry = Geometry(link, *division, HOPPER, stretch, True)
    assert geometry.fits
    assert geometry.order == order
    frame = source.simulate(link, 20.0, 4, 0)
    got = receive(frame.samples, geometry, tmp_path)
    exact = reference.receive(frame.samples.astype(np.complex128), link, blocks=geometry.blocks)
    assert got["mu"] == pytest.approx(exact.mu, rel=1e-5)
    assert got["variance"] == pytest.approx(exact.variance, rel=1e-4)
    close = 1e-4 if geometry.each == 1 else 1e-2
    np.testing.assert_allclose(got["symbols"], exact.symbols, atol=close)
    assert np.mean(got["bits"] != exact.bits) < 1e-3


@pytest.mark.parametrize(
    ("changes", "snr_db", "seed", "least"),
    [
        ({"grid": "64x32"}, 20.0, 1, 1e-4),
        ({"grid": "256x32", "modulation": 64, "max_taps": 40, "iterations": 30}, 30.0, 10, 1e-4),
        # It amplifies little; of its taps at far Dopplers the interpolation shows, in H too.
        ({"grid": "256x32", "pulse": "sinc", "gain_model": "rayleigh"}, 20.0, 92728682, 1e-5),
        ({"grid": "256x32", "pulse": "sinc", "waveform": "cp"}, 20.0, 7, 1e-6),
    ],
)
def test_frames_that_amplify_rounding_are_within_their_own_bound(
    changes: dict[str, Any], snr_db: float, seed: int, least: float, tmp_path: Path
) -> None:
    link = Settings(**changes)
    geometry = Geometry(link, each=1, group=4, cluster=1)
    frame = source.simulate(link, snr_db, seed, 0)
    got = receive(frame.samples, geometry, tmp_path)
    exact = reference.receive(
        frame.samples.astype(np.complex128), link, periods=True, blocks=geometry.blocks
    )
    allowed = bounds(frame.samples, geometry, exact)
    off = np.abs(got["symbols"] * got["mu"] - exact.symbols * exact.mu).max()
    assert least < off < allowed.equalized
    assert abs(got["mu"] / exact.mu - 1) < allowed.mu
    assert not np.any((got["bits"] != exact.bits) & (np.abs(exact.llr) > allowed.llr))


@pytest.mark.parametrize("value", [np.nan, 1j * np.inf])
@pytest.mark.parametrize("position", [0, 17, 64 * 16 + 31, 64 * 32 - 1])
def test_a_sample_that_is_not_finite_shows_in_the_variance(
    position: int, value: complex, tmp_path: Path
) -> None:
    link = Settings(grid="64x32")
    samples = source.simulate(link, 20.0, 3, 0).samples.copy()
    samples[position] = value
    got = receive(samples, Geometry.of(link), tmp_path)
    # No period uses a sample of the guard strip that the channel does not reach.
    spoilt = not np.isfinite(got["llr"]).all()
    assert spoilt == np.isnan(got["llr"]).all() == np.isnan(got["variance"])
    assert spoilt or position == 64 * 16 + 31


def test_a_frame_of_zeros_ends(tmp_path: Path) -> None:
    link = Settings(grid="64x32")
    got = receive(np.zeros(link.q, np.complex64), Geometry.of(link), tmp_path)
    assert got["noise_variance"] == 0
    assert got["taps"] == 0
    assert np.isnan(got["variance"])


@pytest.mark.parametrize("delays", [64, 128, 1024, 2048, 4096, 8192, 16384])
def test_every_grid_fits(delays: int) -> None:
    geometry = Geometry.of(Settings(grid=f"{delays}x32"))
    assert geometry.shared_bytes <= HOPPER.block_shared
    assert geometry.span * geometry.cluster >= geometry.length
    assert geometry.span >= geometry.halo or geometry.cluster == 1


@pytest.mark.parametrize("grid", sweep.GRIDS)
def test_the_sweep_varies_what_fits(grid: str) -> None:
    default = Geometry.of(Settings(grid=grid), preconditioned=False)
    found = list(sweep.divisions(default))
    assert {geometry.cluster for geometry in [default, *found]} >= {3, 7}
    for geometry in found:
        assert geometry.shared_bytes <= HOPPER.resident_shared(geometry.resident)
        assert geometry.span * geometry.cluster >= geometry.length


def test_grids_beyond_the_kernels_are_refused() -> None:
    with pytest.raises(UsageError, match="128 Doppler bins"):
        Geometry.of(Settings(grid="64x256"))
    with pytest.raises(UsageError, match="shared memory"):
        Geometry.of(Settings(grid="131072x32"))
