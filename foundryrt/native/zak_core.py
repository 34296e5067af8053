"""Binding of the Zak-OTFS receiver's native core: frames to LLRs on the CPU (docs/otfs.md)."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_void_p
from dataclasses import astuple, dataclass
from functools import cache, lru_cache
from pathlib import Path

from foundryrt.errors import FoundryError
from foundryrt.native.core import load_core

_PATH = Path(__file__).parent / "libfoundryhost.so"
MOST_ANTENNAS = 4
"""Antennas whose frames the core receives together, as in native/zak/link.hpp."""
_FAILURES = {1: "its arguments contradict each other", 2: "there is not enough memory for it"}


class _Link(ctypes.Structure):
    """`foundry_zak_link` of native/zak/link.hpp."""

    _fields_ = (
        ("delay_bins", c_int32), ("doppler_bins", c_int32), ("pilot_delay", c_int32),
        ("pilot_doppler", c_int32), ("guard_bins", c_int32), ("first_tap", c_int32),
        ("window_delays", c_int32), ("doppler_reach", c_int32), ("pilot_amplitude", c_float),
    )  # fmt: skip


@dataclass(frozen=True)
class Link:
    """Grid, pilot and channel window of the frames; counts in bins.

    The window has delay taps from `first_tap` on, 0 among them and none beyond the guard strip, and
    Doppler taps -`doppler_reach` to `doppler_reach`; the strip around the pilot is odd.
    """

    delay_bins: int
    doppler_bins: int
    pilot_delay: int
    pilot_doppler: int
    guard_bins: int
    first_tap: int
    window_delays: int
    doppler_reach: int
    pilot_amplitude: float


@lru_cache
def _structure(link: Link) -> _Link:
    """Made once: a frame's time is that of some hundred Python calls."""
    return _Link(*astuple(link))


@cache
def _library() -> ctypes.CDLL:
    library = load_core(_PATH)
    link = POINTER(_Link)
    library.foundry_zak_lanes.argtypes = (c_int,)
    library.foundry_zak_estimate.argtypes = (
        link, c_int, c_int, c_void_p, c_float, c_int, c_void_p, c_void_p, c_void_p,
    )  # fmt: skip
    library.foundry_zak_equalize.argtypes = (
        link, c_int, c_int, c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p, c_void_p,
    )  # fmt: skip
    library.foundry_zak_demap.argtypes = (
        link, c_int, c_int, c_void_p, c_void_p, c_int, *[c_void_p] * 5,
    )  # fmt: skip
    return library


def _check(name: str, code: int) -> None:
    if code:
        raise FoundryError(f"{name}: {_FAILURES.get(code, f'code {code}')}")


def lanes(wanted: int = 0) -> int:
    """Floats of a vector of the chosen instruction set; 0 where this processor has none such.

    16 is AVX-512, 8 AVX2, 4 every processor; 0 asks for the widest.
    """
    return int(_library().foundry_zak_lanes(wanted))


def estimate(
    link: Link,
    samples: int,
    tap_sigmas: float,
    max_taps: int,
    taps: int,
    noise_variance: int,
    kept: int,
    lanes: int = 0,
    antennas: int = 1,
) -> None:
    """Channel taps and σ² from a frame's pilot, for each of A antennas; the others are addresses.

    `samples` complex64 [A, MN] in; `taps` complex64 [A, 2D+1, window], `noise_variance` float32 [A]
    and `kept` int64 [A], how many taps are not 0, out. FoundryError for a link that contradicts
    itself, and for more than `MOST_ANTENNAS`.
    """
    code = _library().foundry_zak_estimate(
        byref(_structure(link)), lanes, antennas, samples, tap_sigmas, max_taps, taps,
        noise_variance, kept,
    )  # fmt: skip
    _check("zak_estimate", code)


def equalize(
    link: Link,
    threads: int,
    samples: int,
    taps: int,
    noise_variance: int,
    iterations: int,
    equalized: int,
    bias: int,
    lanes: int = 0,
    antennas: int = 1,
) -> None:
    """LMMSE by preconditioned conjugate gradients, each Doppler period on its own.

    Tensors by address. Samples, taps and σ² are those of `estimate`; A antennas are combined by
    their σ² (MRC). `equalized` complex64 [MN] time samples, of which the guard strip's are left as
    they are, and `bias` float32 [N], by period LMMSE's E[λ/(λ+σ²)], out.
    """
    code = _library().foundry_zak_equalize(
        byref(_structure(link)), lanes, threads, antennas, samples, taps, noise_variance,
        iterations, equalized, bias,
    )  # fmt: skip
    _check("zak_equalize", code)


def demap(
    link: Link,
    threads: int,
    equalized: int,
    bias: int,
    axis_bits: int,
    symbols: int,
    llr: int,
    bits: int,
    mu: int,
    variance: int,
    lanes: int = 0,
) -> None:
    """Unbiased symbols, LLRs and bits of 4^axis_bits-QAM; tensors by address.

    For D data symbols: `symbols` complex64 [D], delay-major, `llr` float32 and `bits` uint8
    [D, 2 axis_bits]; `mu` and `variance` float32 [], the latter NaN unless all are finite; out.
    """
    code = _library().foundry_zak_demap(
        byref(_structure(link)), lanes, threads, equalized, bias, axis_bits, symbols, llr,
        bits, mu, variance,
    )  # fmt: skip
    _check("zak_demap", code)
