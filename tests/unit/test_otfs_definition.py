"""A transmitter written from docs/otfs-waveform.md alone is received: the page is complete.

Nothing but the link's settings is shared with the package, and the pulse is a sum over its formula.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from otfs_pipeline.front.synchronize import FrontEnd
from otfs_pipeline.link import reference
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot

BETA, FRAMES, RATE = 0.6, 3, 2


@dataclass(frozen=True)
class Page:
    """The page's numbers for M x N bins, G of them in the guard strip, slots of S periods."""

    m: int
    n: int
    guard: int
    periods: int
    prefix: bool = False
    spread: int = 0  # D of a spread pilot

    @property
    def pilot(self) -> int:
        return self.m - 1 - self.guard // 2 if self.prefix else self.m // 2

    def frame(self, bits: np.ndarray) -> np.ndarray:
        b = bits.reshape(-1, 4) * -2.0 + 1
        symbols = b[:, 0] * (2 - b[:, 2]) + 1j * b[:, 1] * (2 - b[:, 3])
        grid = np.zeros((self.m, self.n), complex)
        strip = np.abs(np.arange(self.m) - self.pilot) <= self.guard // 2
        grid[~strip] = symbols.reshape(-1, self.n) / np.sqrt(10)
        if self.spread:
            i, half = np.arange(self.guard), self.guard // 2
            length = self.guard - self.spread - 2 * ((half - self.spread) // 2)
            chirp = np.exp(-1j * np.pi * i * (i + length % 2) / length)
            grid[strip, self.n // 2] = np.sqrt(self.n) * chirp
        else:
            grid[self.pilot, self.n // 2] = np.sqrt(self.guard * self.n)
        doppler = np.outer(np.arange(self.n), np.arange(self.n))
        return (grid @ np.exp(2j * np.pi * doppler / self.n)).T.ravel() / np.sqrt(self.n)

    def burst(self, frame: np.ndarray) -> np.ndarray:
        q = self.m * self.n
        if self.prefix:
            half = q // 2 + self.guard // 2
            return frame[(q // 2 + np.arange(-half, half + 1)) % q]
        half = int(np.ceil((1 + BETA) * q / 2))
        n = np.arange(-half, half + 1)
        edge = (np.abs(n) / q - (1 - BETA) / 2) / BETA
        taper = np.where(edge < 1, np.cos(np.pi / 2 * np.clip(edge, 0, 1)), 0)
        return frame[n % q] * taper

    def preamble(self) -> np.ndarray:
        c = gold(2 * self.m, self.m)
        return ((1 - 2.0 * c[0::2]) + 1j * (1 - 2.0 * c[1::2])) / np.sqrt(2)

    def chips(self, payloads: list[np.ndarray], lead: int) -> np.ndarray:
        step, centre = self.periods * self.m, (self.periods + 1) * self.m // 2
        chips = np.zeros(2 * lead + len(payloads) * step + self.m, complex)
        for slot_index in range(len(payloads) + 1):
            begin = lead + slot_index * step
            chips[begin : begin + self.m] += self.preamble()
            if slot_index < len(payloads):
                burst = self.burst(self.frame(payloads[slot_index]))
                at = begin + centre - burst.size // 2
                chips[at : at + burst.size] += burst
        return chips


def gold(count: int, seed: int) -> np.ndarray:
    """c(n) of 3GPP 38.211, 5.2.1."""
    x1, x2 = [1] + 30 * [0], [seed >> i & 1 for i in range(31)]
    for n in range(1600 + count):
        x1.append(x1[n + 3] ^ x1[n])
        x2.append(x2[n + 3] ^ x2[n + 2] ^ x2[n + 1] ^ x2[n])
    return np.array([x1[n] ^ x2[n] for n in range(1600, 1600 + count)])


def pulse(t: np.ndarray) -> np.ndarray:
    """Root raised cosine of unit energy; t in symbols, at none of which the formula is 0/0."""
    top = np.sin(np.pi * t * (1 - BETA)) + 4 * BETA * t * np.cos(np.pi * t * (1 + BETA))
    return np.asarray(top / (np.pi * t * (1 - (4 * BETA * t) ** 2)))


def shaped(chips: np.ndarray, late: float) -> np.ndarray:
    """At RATE samples a symbol, so many symbols later."""
    out = np.empty(RATE * chips.size, complex)
    reach = np.arange(-40, 41)
    for part in range(RATE):
        taps = pulse(reach + part / RATE - late) / np.sqrt(RATE)
        out[part::RATE] = np.convolve(chips, taps)[40 : 40 + chips.size]
    return out


@pytest.mark.parametrize(
    ("page", "link"),
    [
        (Page(64, 32, 23, 51), Settings(grid="64x32")),
        (Page(64, 32, 23, 34, prefix=True), Settings(grid="64x32", waveform="cp")),
        (Page(57, 31, 23, 49), Settings(grid="57x31")),
        (Page(128, 32, 43, 51, spread=5), Settings(grid="128x32", pilot="spread")),
    ],
    ids=["zak", "prefix", "odd", "spread"],
)
@pytest.mark.parametrize("carrier", [0.0, 3100.0])
def test_a_waveform_from_the_page_is_received(page: Page, link: Settings, carrier: float) -> None:
    assert slot(link).chips == page.periods * page.m
    rng = np.random.default_rng(3)
    bits = [rng.integers(0, 2, (page.m - page.guard) * page.n * 4) for _ in range(FRAMES)]
    sent = shaped(page.chips(bits, lead=2000), late=0.37)
    sent *= 0.1 * np.exp(2j * np.pi * carrier / (RATE * link.bandwidth) * np.arange(sent.size))
    noise = rng.standard_normal((sent.size, 2)).view(np.complex128)[:, 0]
    air = (sent + 0.1 * 10 ** (-30 / 20) / np.sqrt(2) * noise).astype(np.complex64)
    front = FrontEnd(link)
    found = [*front.push(air), *front.finish()]
    assert len(found) == FRAMES
    for one, expected in zip(found, bits, strict=True):
        got = reference.receive(one.samples.astype(np.complex128), link)
        np.testing.assert_array_equal(got.bits.ravel(), expected)
        # 30 dB, but for what neighbours leave, 40 dB below.
        assert 10 * np.log10(1 / got.variance) > 28
        assert one.carrier_hz == pytest.approx(carrier, abs=15.0)
