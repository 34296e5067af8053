"""The Zak-OTFS receiver's native core as operators of torch, which a host bundle may call.

`CHECKS` has the questions that each asks of its arguments asked before a graph's first launch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import Any

import torch

from foundryrt.host.custom import NAMESPACE, Operator, is_plain
from foundryrt.native import zak_core
from foundryrt.native.zak_core import MOST_ANTENNAS, Link

_COUNTS = (
    "delay_bins", "doppler_bins", "pilot_delay", "pilot_doppler", "guard_bins", "first_tap",
    "window_delays", "doppler_reach",
)  # fmt: skip
_FIELDS = (*_COUNTS, "pilot_amplitude")
_LINK = ", ".join(f"int {name}" for name in _COUNTS) + ", float pilot_amplitude"
_MOST_SAMPLES = 1 << 30
_MOST_ITERATIONS = 1000


def _link(a: Mapping[str, Any]) -> Link | None:
    """The link of a call; None unless it is one that the core takes."""
    values = tuple(a[name] for name in _FIELDS)
    if {type(count) for count in values[:-1]} != {int} or not _is_number(values[-1]):
        return None
    return _checked(*values)


@lru_cache
def _checked(*values: Any) -> Link | None:
    """As `is_valid` of native/zak/link.hpp; a call's link is looked at once."""
    link = Link(*values)
    half = link.guard_bins // 2
    fits = (
        link.delay_bins > 1
        and link.doppler_bins > 1
        and link.delay_bins * link.doppler_bins <= _MOST_SAMPLES
        and 0 < link.guard_bins < link.delay_bins
        and link.guard_bins % 2 == 1
        and half <= link.pilot_delay < link.delay_bins - half
        and 0 <= link.pilot_doppler < link.doppler_bins
        and -half <= link.first_tap <= 0
        and -link.first_tap < link.window_delays <= half - link.first_tap + 1
        and link.doppler_reach >= 0
        and 2 * link.doppler_reach + 1 < link.doppler_bins
        and link.pilot_amplitude > 0
    )
    return link if fits else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value) and abs(value) < 1e30


def _antennas(a: Mapping[str, Any]) -> tuple[int, ...]:
    """The first dimension of what each antenna has, (A,): none where samples are [MN], of one."""
    return tuple(a["samples"].shape[:-1])


def _can_combine(antennas: tuple[int, ...]) -> bool:
    return len(antennas) < 2 and 1 <= _count(antennas) <= MOST_ANTENNAS


def _count(antennas: tuple[int, ...]) -> int:
    return antennas[0] if antennas else 1


def _window(link: Link) -> tuple[int, int]:
    return 2 * link.doppler_reach + 1, link.window_delays


def _for_estimate(a: Mapping[str, Any]) -> Link | None:
    """The call's link where the other arguments fit it; so for the others below."""
    link = _link(a)
    if link is None or type(a["max_taps"]) is not int:
        return None
    rows, columns = _window(link)
    antennas = _antennas(a)
    fits = (
        _can_combine(antennas)
        and is_plain(a["samples"], torch.complex64, *antennas, link.delay_bins * link.doppler_bins)
        and is_plain(a["taps"], torch.complex64, *antennas, rows, columns)
        and is_plain(a["noise_variance"], torch.float32, *antennas)
        and is_plain(a["kept"], torch.int64, *antennas)
        and _is_number(a["tap_sigmas"])
        and 1 <= a["max_taps"] <= rows * columns
    )
    return link if fits else None


def _for_equalize(a: Mapping[str, Any]) -> Link | None:
    link = _link(a)
    if link is None or type(a["iterations"]) is not int:
        return None
    samples = link.delay_bins * link.doppler_bins
    antennas = _antennas(a)
    fits = (
        _can_combine(antennas)
        and is_plain(a["samples"], torch.complex64, *antennas, samples)
        and is_plain(a["taps"], torch.complex64, *antennas, *_window(link))
        and is_plain(a["noise_variance"], torch.float32, *antennas)
        and 1 <= a["iterations"] <= _MOST_ITERATIONS
        and is_plain(a["equalized"], torch.complex64, samples)
        and is_plain(a["bias"], torch.float32, link.doppler_bins)
    )
    return link if fits else None


def _for_demap(a: Mapping[str, Any]) -> Link | None:
    link = _link(a)
    if link is None or type(a["axis_bits"]) is not int or not 1 <= a["axis_bits"] <= 3:
        return None
    symbols = (link.delay_bins - link.guard_bins) * link.doppler_bins
    bits = 2 * a["axis_bits"]
    fits = (
        is_plain(a["equalized"], torch.complex64, link.delay_bins * link.doppler_bins)
        and is_plain(a["bias"], torch.float32, link.doppler_bins)
        and is_plain(a["symbols"], torch.complex64, symbols)
        and is_plain(a["llr"], torch.float32, symbols, bits)
        and is_plain(a["bits"], torch.uint8, symbols, bits)
        and is_plain(a["mu"], torch.float32)
        and is_plain(a["variance"], torch.float32)
    )
    return link if fits else None


def _estimate(a: Mapping[str, Any], link: Link) -> None:
    zak_core.estimate(
        link, a["samples"].data_ptr(), a["tap_sigmas"], a["max_taps"], a["taps"].data_ptr(),
        a["noise_variance"].data_ptr(), a["kept"].data_ptr(), antennas=_count(_antennas(a)),
    )  # fmt: skip


def _equalize(a: Mapping[str, Any], link: Link) -> None:
    zak_core.equalize(
        link, torch.get_num_threads(), a["samples"].data_ptr(), a["taps"].data_ptr(),
        a["noise_variance"].data_ptr(), a["iterations"], a["equalized"].data_ptr(),
        a["bias"].data_ptr(), antennas=_count(_antennas(a)),
    )  # fmt: skip


def _demap(a: Mapping[str, Any], link: Link) -> None:
    zak_core.demap(
        link, torch.get_num_threads(), a["equalized"].data_ptr(), a["bias"].data_ptr(),
        a["axis_bits"], a["symbols"].data_ptr(), a["llr"].data_ptr(), a["bits"].data_ptr(),
        a["mu"].data_ptr(), a["variance"].data_ptr(),
    )  # fmt: skip


_OPERATORS = (
    Operator(
        f"zak_estimate(Tensor samples, {_LINK}, float tap_sigmas, int max_taps, *,"
        " Tensor(a!) taps, Tensor(b!) noise_variance, Tensor(c!) kept) -> ()",
        _for_estimate, _estimate,
    ),
    Operator(
        f"zak_equalize(Tensor samples, Tensor taps, Tensor noise_variance, {_LINK},"
        " int iterations, *, Tensor(a!) equalized, Tensor(b!) bias) -> ()",
        _for_equalize, _equalize,
    ),
    Operator(
        f"zak_demap(Tensor equalized, Tensor bias, {_LINK}, int axis_bits, *,"
        " Tensor(a!) symbols, Tensor(b!) llr, Tensor(c!) bits, Tensor(d!) mu,"
        " Tensor(e!) variance) -> ()",
        _for_demap, _demap,
    ),
)  # fmt: skip

CHECKS = {f"{NAMESPACE}::{operator.name}": operator.fits for operator in _OPERATORS}
"""By operator: whether a call's arguments, given by name, fit each other."""

for _one in _OPERATORS:
    _one.define()
