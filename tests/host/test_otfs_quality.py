"""How a frame was: the numbers of the graph in torch and as CUDA kernels, and what they show."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foundryc.cuda.kernels import compile_source
from otfs_pipeline.frames import source
from otfs_pipeline.link import frame, qam, reference
from otfs_pipeline.receiver.kernels import quality
from otfs_pipeline.receiver.quality import measure
from otfs_pipeline.settings import Settings
from tests.host.kernels_on_cpu import compiled
from tests.host.otfs_link import save_bundle

LINK = Settings(grid="64x32")
LAUNCHES = """
extern "C" void run(const Sample* samples, const Sample* symbols, float* of_cells, float* of_blocks,
                    float* power, float* peak, float* clipped, float* burst, float* missing,
                    float* evm) {
  launch(CELLS, 32 * QUALITY_WARPS, 1, 0, [=] { measure_samples(samples, of_cells); });
  launch(SYMBOL_BLOCKS, 256, 1, 0, [=] { measure_symbols(symbols, of_blocks); });
  launch(1, 32, 1, 0, [=] {
      summarize(of_cells, of_blocks, power, peak, clipped, burst, missing, evm); });
}
"""


def in_torch(link: Settings, samples: np.ndarray, symbols: np.ndarray) -> dict[str, float]:
    given = torch.from_numpy(samples), torch.from_numpy(symbols.astype(np.complex64))
    return {name: float(value) for name, value in measure(*given, link).items()}


def received(link: Settings, snr_db: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    samples = source.simulate(link, snr_db, 3, 0).samples
    return samples, reference.receive(samples.astype(np.complex128), link).symbols


def test_the_numbers_are_what_they_are_called() -> None:
    samples, symbols = received(LINK)
    got = in_torch(LINK, samples, symbols)
    assert got["power"] == pytest.approx(np.mean(np.abs(samples) ** 2), rel=1e-5)
    parts = np.abs(samples.view(np.float32))
    assert (got["peak"], got["clipped"], got["missing"]) == (parts.max(), 1, 0)
    points = qam.modulate(np.array(list(np.ndindex(2, 2, 2, 2))), 16)
    nearest = np.abs(symbols[:, None] - points).min(axis=1)
    assert got["evm"] == pytest.approx(np.sqrt(np.mean(nearest**2)), rel=1e-5)
    assert 1 <= got["burst"] < 8


def test_clipping_bursts_and_gaps_show() -> None:
    samples, symbols = received(LINK)
    clipped = samples.copy()
    limit = np.float32(np.abs(clipped.view(np.float32)).max() / 3)
    clipped.view(np.float32)[:] = np.clip(clipped.view(np.float32), -limit, limit)
    expected = (np.abs(clipped.view(np.float32)).reshape(-1, 2).max(axis=1) == limit).sum()
    assert in_torch(LINK, clipped, symbols)["clipped"] == expected > 10
    burst = samples.copy()
    burst[640:672] += 10
    assert in_torch(LINK, burst, symbols)["burst"] > 20
    # The pilot comes once a period: a burst on it stands out from the other periods.
    burst = samples.copy()
    burst[64 * 5 + 32 : 64 * 5 + 40] *= 6
    assert in_torch(LINK, burst, symbols)["burst"] > 8
    gap = samples.copy()
    gap[64:256] = 0
    assert in_torch(LINK, gap, symbols)["missing"] == 192
    assert in_torch(LINK, np.zeros_like(samples), symbols)["missing"] == LINK.q


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
@pytest.mark.parametrize(
    "link",
    [LINK, Settings(grid="31x37", nu_p=30e3, modulation=4), Settings(grid="80x40", modulation=64)],
)
def test_the_kernels_give_the_numbers_of_torch(link: Settings, tmp_path: Path) -> None:
    samples, symbols = received(link)
    samples[link.m : 3 * link.m] = 0
    samples[:5] = samples[np.argmax(np.abs(samples.real))]
    text = '#include "cuda_on_cpu.h"\nusing std::fabs;\n' + quality.source(link) + LAUNCHES
    library = compiled(text, tmp_path)
    written = {
        name: np.full(buffer.shape, np.nan, np.float32)
        for name, buffer in quality.buffers(link).items()
    }
    arrays = [samples, symbols.astype(np.complex64), *written.values()]
    library.run(*[ctypes.c_void_p(array.ctypes.data) for array in arrays])
    expected = in_torch(link, samples, symbols)
    assert expected["missing"] == 2 * link.m and expected["clipped"] >= 6
    for name, value in expected.items():
        assert written[name] == pytest.approx(value, rel=1e-5), name


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("otfs") / "otfs.fdy")


def test_the_log_says_of_each_frame_how_it_was(bundle: Path, tmp_path: Path) -> None:
    frames = [source.simulate(LINK, 20.0, 3, index).samples for index in range(4)]
    limit = np.float32(np.abs(frames[1].view(np.float32)).max() / 2)
    frames[1].view(np.float32)[:] = np.clip(frames[1].view(np.float32), -limit, limit)
    frames[2][640:672] += 10
    frames[3][64:256] = 0
    np.concatenate(frames).tofile(tmp_path / "link.raw")
    command = "import sys; from foundryrt.cli import main; sys.argv[0] = 'foundryrt'; main()"
    options = ["--iq", "link.raw", "--datatype", "cf32_le", "--frame-log", "log", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", command, "run", bundle, *options],
        cwd=tmp_path, capture_output=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["flags"] for line in lines[:2]] == [[], ["clipped", "mismatch"]]
    assert "burst" in lines[2]["flags"] and "missing" in lines[3]["flags"]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert lines[3]["missing_samples"] == 192
    report = json.loads(done.stdout)
    totals = report["conditions"]
    assert (totals["frames"], totals["good"]) == (4, 1)
    found = dict(totals["flags"])
    assert report["fit"] == {name: found.pop(name) for name in ("mismatch", "noisy")}
    assert found == {"clipped": 1, "burst": 1, "missing": 1, "crc": 0}
    exact = reference.receive(frames[0].astype(np.complex128), LINK)
    gain = np.sum(np.abs(exact.estimate.taps.value) ** 2)
    assert lines[0]["snr_db"] == pytest.approx(
        10 * np.log10(gain / exact.estimate.noise_variance), abs=0.3
    )
    assert lines[0]["noise_variance"] == pytest.approx(exact.estimate.noise_variance, rel=1e-3)
    assert lines[0]["taps"] == np.count_nonzero(exact.estimate.taps.value)
    assert all(line["bit_errors"] is None for line in lines)


def test_the_kernels_compile_for_the_operating_point() -> None:
    link = replace(LINK, grid="16384x32")
    assert b"summarize" in compile_source(quality.source(link), "quality.cu", "sm_90")
    assert quality.buffers(link)["of_cells"].shape == (512, 5)
    assert frame.data_symbols(link) > 0
