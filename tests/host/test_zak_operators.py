"""The receiver's native operators: what they refuse, what they leave alone, threads, lanes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.errors import FoundryError
from foundryrt.host import zak
from foundryrt.host.operators import operator
from foundryrt.native import zak_core
from foundryrt.native.zak_core import Link
from otfs_pipeline.frames import source
from otfs_pipeline.receiver.native import NativeReceiver, link
from otfs_pipeline.settings import Settings

SETTINGS = Settings(grid="64x32")
LINK = link(SETTINGS)
NAMES = ("estimate", "equalize", "demap")


def arguments(link: Link = LINK, axis_bits: int = 2) -> dict[str, dict[str, Any]]:
    """Arguments by name of a call of each operator, over zeros."""
    q, window = link.delay_bins * link.doppler_bins, 2 * link.doppler_reach + 1
    symbols = (link.delay_bins - link.guard_bins) * link.doppler_bins
    t: dict[str, torch.Tensor] = {
        "samples": torch.zeros(q, dtype=torch.complex64),
        "taps": torch.zeros(window, link.window_delays, dtype=torch.complex64),
        "noise_variance": torch.ones(()),
        "kept": torch.zeros((), dtype=torch.int64),
        "equalized": torch.zeros(q, dtype=torch.complex64),
        "bias": torch.zeros(link.doppler_bins),
        "symbols": torch.zeros(symbols, dtype=torch.complex64),
        "llr": torch.zeros(symbols, 2 * axis_bits),
        "bits": torch.zeros(symbols, 2 * axis_bits, dtype=torch.uint8),
        "mu": torch.zeros(()),
        "variance": torch.zeros(()),
    }

    def some(*names: str, **more: Any) -> dict[str, Any]:
        return {name: t[name] for name in names} | asdict(link) | more

    return {
        "estimate": some(
            "samples", "taps", "noise_variance", "kept", tap_sigmas=3.0, max_taps=5
        ),
        "equalize": some("samples", "taps", "noise_variance", "equalized", "bias", iterations=3),
        "demap": some(
            "equalized", "bias", "symbols", "llr", "bits", "mu", "variance", axis_bits=axis_bits
        ),
    }  # fmt: skip


def call(name: str, given: dict[str, Any]) -> None:
    operator(f"foundry::zak_{name}")(**given)


WRONG: list[tuple[str, str, Any]] = [
    *((name, field, value) for name in NAMES for field, value in (
        ("delay_bins", 65), ("delay_bins", 1), ("delay_bins", -64), ("delay_bins", 1 << 62),
        ("doppler_bins", 31), ("doppler_bins", 0), ("doppler_bins", 1 << 40),
        ("pilot_delay", 5), ("pilot_delay", 63), ("pilot_delay", -1), ("pilot_delay", 1 << 32),
        ("pilot_doppler", 32), ("pilot_doppler", -1), ("guard_bins", 22), ("guard_bins", -23),
        ("guard_bins", 65), ("first_tap", 1), ("first_tap", -40), ("window_delays", 0),
        ("window_delays", 8), ("window_delays", 1 << 33), ("doppler_reach", 16),
        ("doppler_reach", -1),
        ("pilot_amplitude", 0.0), ("pilot_amplitude", float("nan")), ("pilot_amplitude", 1e300),
        ("delay_bins", 64.0), ("delay_bins", True), ("pilot_amplitude", None),
    )),
    *(("estimate", "max_taps", value) for value in (0, -1, 10_000, 1 << 40, 5.0)),
    *(("estimate", "tap_sigmas", value) for value in (float("inf"), None)),
    *(("equalize", "iterations", value) for value in (0, -1, 1001, 1 << 40)),
    *(("demap", "axis_bits", value) for value in (0, 1, 3, 4, 1 << 31)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value"), WRONG)
def test_numbers_that_contradict_the_tensors_are_refused(name: str, field: str, value: Any) -> None:
    given = arguments()[name] | {field: value}
    assert zak.CHECKS[f"foundry::zak_{name}"](arguments()[name])
    assert not zak.CHECKS[f"foundry::zak_{name}"](given)
    # torch's own parser refuses some before the operator sees them.
    with pytest.raises((FoundryError, RuntimeError, TypeError, OverflowError)):
        call(name, given)


TENSORS = [(name, key) for name, given in arguments().items() for key, value in given.items()
           if isinstance(value, torch.Tensor)]  # fmt: skip


@pytest.mark.parametrize(("name", "key"), TENSORS)
def test_tensors_of_another_form_are_refused(name: str, key: str) -> None:
    good = arguments()[name]
    tensor = good[key]
    others = [
        torch.zeros_like(tensor, dtype=torch.float64),
        tensor.new_zeros((*tensor.shape, 1)),
        tensor.new_zeros([n + 1 for n in tensor.shape] or [1]),
        tensor.new_zeros([n - 1 for n in tensor.shape] or [1]),
        torch.empty_like(tensor, device="meta"),
    ]
    if tensor.dim():
        others.append(
            tensor.new_zeros([2 * n for n in tensor.shape])[(slice(None, None, 2),) * tensor.dim()]
        )
        others.append(tensor.new_zeros([1] * tensor.dim()).expand(tensor.shape))
    if tensor.is_complex():
        # Of one that is only read, torch makes a plain copy before a call.
        assert not zak.CHECKS[f"foundry::zak_{name}"](good | {key: tensor.conj()})
    for other in others:
        given = good | {key: other}
        assert not zak.CHECKS[f"foundry::zak_{name}"](given)
        with pytest.raises((FoundryError, RuntimeError, NotImplementedError)):
            call(name, given)


def test_the_core_refuses_such_links_itself() -> None:
    given = arguments()["equalize"]
    at = [given[name].data_ptr() for name in ("samples", "taps", "noise_variance")]
    out = [given[name].data_ptr() for name in ("equalized", "bias")]
    for changes in ({"guard_bins": 65}, {"pilot_delay": 5}, {"first_tap": -40},
                    {"window_delays": 200}, {"doppler_reach": 16}, {"delay_bins": 1}):  # fmt: skip
        with pytest.raises(FoundryError, match="contradict each other"):
            zak_core.equalize(replace(LINK, **changes), 1, *at, 3, *out)


@st.composite
def links(draw: st.DrawFn) -> Link:
    """Any link that is no contradiction, of few samples."""
    m, n = draw(st.integers(2, 300)), draw(st.integers(2, 12))
    half = draw(st.integers(0, (m - 2) // 2))
    first = draw(st.integers(-half, 0))
    return Link(
        delay_bins=m,
        doppler_bins=n,
        pilot_delay=draw(st.integers(half, m - half - 1)),
        pilot_doppler=draw(st.integers(0, n - 1)),
        guard_bins=2 * half + 1,
        first_tap=first,
        window_delays=draw(st.integers(1 - first, half - first + 1)),
        doppler_reach=draw(st.integers(0, (n - 2) // 2)),
        pilot_amplitude=3.0,
    )


class Guarded:
    """An array amid bytes that nobody may change."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.memory = np.full(size + 256, 0xA5, np.uint8)
        self.inside = self.memory[128 : 128 + size]
        self.array = self.inside.view(dtype).reshape(shape)
        self.at = self.array.ctypes.data

    def is_whole(self) -> bool:
        return bool((self.memory[:128] == 0xA5).all() and (self.memory[-128:] == 0xA5).all())


@settings(max_examples=60)
@given(links(), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_any_link_stays_inside_its_arrays_on_all_lanes(link: Link, bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = link.delay_bins, link.doppler_bins
    window, data = (2 * link.doppler_reach + 1, link.window_delays), (m - link.guard_bins) * n
    samples = Guarded((m * n,), np.complex64)
    samples.array[:] = rng.standard_normal((m * n, 2)).astype(np.float32).view(np.complex64)[:, 0]
    results = []
    for lanes in (4, 8, 16):
        if not zak_core.lanes(lanes):
            continue
        out = {
            name: Guarded(shape, dtype)
            for name, shape, dtype in (
                ("taps", window, np.complex64), ("noise", (), np.float32), ("kept", (), np.int64),
                ("equalized", (n, m), np.complex64), ("bias", (n,), np.float32),
                ("symbols", (data,), np.complex64), ("llr", (data, 2 * bits), np.float32),
                ("bits", (data, 2 * bits), np.uint8), ("mu", (), np.float32),
                ("variance", (), np.float32),
            )
        }  # fmt: skip
        at = {name: one.at for name, one in out.items()}
        most = max(1, window[0] * window[1] // 2)
        zak_core.estimate(link, samples.at, 1.0, most, at["taps"], at["noise"], at["kept"], lanes)
        zak_core.equalize(
            link, 2, samples.at, at["taps"], at["noise"], 2, at["equalized"], at["bias"], lanes
        )
        zak_core.demap(
            link, 2, at["equalized"], at["bias"], bits, at["symbols"], at["llr"], at["bits"],
            at["mu"], at["variance"], lanes,
        )  # fmt: skip
        assert all(one.is_whole() for one in (samples, *out.values()))
        guard = (np.arange(m) - link.pilot_delay + link.guard_bins // 2) % m < link.guard_bins
        kept = np.ascontiguousarray(out["equalized"].array[:, guard])
        assert (kept.view(np.uint8) == 0xA5).all()
        np.testing.assert_array_equal(out["bits"].array, out["llr"].array < 0)
        results.append(out)
    for other in results[1:]:
        for name in ("noise", "bias", "mu"):
            np.testing.assert_allclose(other[name].array, results[0][name].array, rtol=1e-3)


def received(threads: int, samples: np.ndarray, grid: str = "64x32") -> dict[str, np.ndarray]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = NativeReceiver(Settings(grid=grid))(torch.from_numpy(samples))
        return {name: tensor.numpy() for name, tensor in got.items()}
    finally:
        torch.set_num_threads(before)


def test_results_do_not_depend_on_threads_nor_on_who_calls_meanwhile() -> None:
    frames = [source.simulate(SETTINGS, 20.0, 5, index).samples for index in range(4)]
    alone = [received(1, samples)["llr"] for samples in frames]
    for threads in (2, 3):
        for samples, llr in zip(frames, alone, strict=True):
            np.testing.assert_array_equal(received(threads, samples)["llr"], llr)
    with ThreadPoolExecutor(4) as callers:
        for _ in range(5):
            together = callers.map(lambda samples: received(2, samples)["llr"], frames)
            for got, llr in zip(together, alone, strict=True):
                np.testing.assert_array_equal(got, llr)


FORKED = """
import os, sys
import numpy as np
sys.path[:0] = sys.argv[1:]
from tests.host.test_zak_operators import SETTINGS, received, source
samples = source.simulate(SETTINGS, 20.0, 5, 0).samples
before = received(2, samples)["llr"]
child = os.fork()
if not child:
    same = np.array_equal(received(2, samples)["llr"], before)
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    root = Path(__file__).parents[2]
    # torch's own pool does not outlive a fork: it has to be left alone.
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(root)], cwd=root, timeout=60, capture_output=True,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
