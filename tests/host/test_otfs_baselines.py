"""The benchmark's receivers in torch, on the CPU, against float64 on the delay-Doppler grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.receiver.baselines import Call, CsrReceiver, DelayDopplerReceiver
from otfs_pipeline.frames import source
from otfs_pipeline.link import equalize, frame, qam
from otfs_pipeline.link.channel import Taps, apply
from otfs_pipeline.link.estimate import estimate
from otfs_pipeline.link.zak import zak
from otfs_pipeline.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")


def exact(link: Settings, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and LLRs of `delay_doppler_cg`, unbiased by the symbols' own energy."""
    grid = zak(samples.astype(np.complex128), link.m, link.n)
    known = estimate(grid, link)
    kept = known.taps.value != 0
    taps = Taps(known.taps.value[kept], known.taps.delay[kept], known.taps.doppler[kept])
    right = grid - apply(frame.pilot_grid(link), taps)
    mask = frame.data_mask(link)
    x = equalize.delay_doppler_cg(right, taps, known.noise_variance, link.cg_iterations, mask).x
    symbols = frame.extract(x, link)
    mu = np.mean(np.abs(symbols) ** 2)
    return symbols / mu, qam.max_log_llr(symbols / mu, 1 / mu - 1, link.modulation)


@pytest.mark.parametrize("form", [DelayDopplerReceiver, CsrReceiver])
@pytest.mark.parametrize(
    ("changes", "snr_db"),
    [
        ({"grid": "64x32"}, 20.0),
        ({"grid": "256x32"}, 20.0),
        ({"grid": "256x32", "modulation": 64, "max_taps": 20, "iterations": 10}, 30.0),
        ({"grid": "31x37", "nu_p": 30e3, "modulation": 4, "iterations": 6}, 25.0),
    ],
)
def test_agrees_with_numpy(
    form: Callable[[Settings, str], Call], changes: dict[str, Any], snr_db: float
) -> None:
    link = Settings(**changes)
    sent = source.simulate(link, snr_db, 3, 0)
    got = form(link, "cpu")(torch.from_numpy(sent.samples))
    symbols, llr = exact(link, sent.samples)
    np.testing.assert_allclose(got["symbols"], symbols, atol=1e-4)
    np.testing.assert_allclose(got["llr"], llr, atol=1e-3 * np.abs(llr).max())
    np.testing.assert_array_equal(got["bits"], got["llr"] < 0)
    assert np.mean(got["bits"].numpy().ravel() != sent.bits) < 0.2


def test_the_delay_doppler_form_asks_the_host_nothing() -> None:
    """Fake tensors have no values: what depends on one, as a CUDA graph must not, raises."""
    link = Settings(grid="64x32")
    call = DelayDopplerReceiver(link, "cpu")
    with FakeTensorMode(allow_non_fake_inputs=True):
        bits = call(torch.zeros(link.q, dtype=torch.complex64))["bits"]
    assert bits.shape == (frame.data_symbols(link), link.bits_per_symbol)
