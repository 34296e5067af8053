"""The same receiver in torch: banded in frequency, with H as cuSPARSE CSR matrices in time,
and with shifts of the delay-Doppler grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from otfs_pipeline.link import frame
from otfs_pipeline.receiver.eager import TINY, Receiver
from otfs_pipeline.receiver.tables import tables
from otfs_pipeline.settings import Settings

Call = Callable[[torch.Tensor], dict[str, torch.Tensor]]
Product = Callable[[torch.Tensor], torch.Tensor]


def banded(settings: Settings, device: str = "cuda") -> Receiver:
    """`receiver.Receiver`, on a GPU with cuFFT: the frequency-banded form."""
    constants = tables(settings).items()
    return Receiver(settings, {k: torch.from_numpy(v).to(device) for k, v in constants})


class CsrReceiver:
    """Time-domain conjugate gradients of the whole frame, H and Hᴴ as CSR built for every frame."""

    def __init__(self, settings: Settings, device: str = "cuda") -> None:
        self._s = settings
        self._receiver = banded(settings, device)
        n = torch.arange(settings.q, device=device)
        turn = torch.arange(-settings.doppler_range, settings.doppler_range + 1, device=device)
        self._n = n
        self._harmonics = torch.polar(
            torch.ones(settings.q, turn.numel(), device=device),
            (2 * torch.pi / settings.q) * ((n[:, None] * turn) % settings.q).float(),
        )
        self._turn = turn
        self._mask = self._receiver.tables["mask"].repeat(settings.n)
        amplitude = settings.pilot_amplitude / settings.n**0.5
        period = torch.arange(settings.n, device=device)
        self._pilot = torch.zeros(settings.q, dtype=torch.complex64, device=device)
        self._pilot[settings.pilot_bin[0] :: settings.m] = torch.polar(
            torch.full((settings.n,), amplitude, device=device),
            2 * torch.pi * ((period * settings.pilot_bin[1]) % settings.n).float() / settings.n,
        )

    def __call__(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples [MN] complex64 to LLRs and bits, as `receiver.Receiver`."""
        s = self._s
        grid = torch.fft.fft(samples.view(s.n, s.m), dim=0, norm="ortho")
        h, sigma2 = self._receiver.estimate(grid)
        # The matrix has as many columns as delays were found: the host must know.
        active = torch.nonzero(h.abs().sum(0)).flatten()
        delay = active + s.first_tap
        turned = h[:, active] * torch.polar(
            torch.ones(self._turn.numel(), delay.numel(), device=delay.device),
            (-2 * torch.pi / s.q) * (self._turn[:, None] * delay).float(),
        )
        value = self._harmonics @ turned
        source = (self._n[:, None] - delay) % s.q
        target = (self._n[:, None] + delay) % s.q
        back = value.gather(0, target).conj().resolve_conj()
        rows = torch.arange(0, value.numel() + 1, delay.numel(), device=delay.device)
        size = (s.q, s.q)
        forward = torch.sparse_csr_tensor(rows, source.flatten(), value.flatten(), size)
        adjoint = torch.sparse_csr_tensor(rows, target.flatten(), back.flatten(), size)
        right = adjoint @ (samples - forward @ self._pilot)
        x = _solve(forward.matmul, adjoint.matmul, right, sigma2, self._mask, s.cg_iterations)
        return _decide(self._receiver, torch.fft.fft(x.view(s.n, s.m), dim=0, norm="ortho"))


class DelayDopplerReceiver:
    """Conjugate gradients on the delay-Doppler grid: H and Hᴴ shift it by each of `max_taps` taps.

    On z[l,k] = X[k,l] e^{-j2πkl/Q} (see `receiver.py`) the twisted convolution of `channel.apply`
    is y[l,k] = Σ h[a,b] e^{-j2πal/Q} z[l-b,k-a], with z[l,k+M] = z[l,k] and
    z[l+N,k] = z[l,k] e^{-j2πk/M}: the phases are those of whole rows, not of every bin and tap.
    A row of a shifted grid is then M values in sequence of the padded one, from a place that the
    device computes; taps that are zero are computed with, so the host has nothing to decide.
    """

    def __init__(self, settings: Settings, device: str = "cuda") -> None:
        s = self._s = settings
        self._receiver = banded(settings, device)
        self._reach = s.guard_bins // 2
        around = np.arange(-s.doppler_range, s.n + s.doppler_range)[:, None]
        delay = s.first_tap + np.arange(s.window_delays)
        pilot = frame.pilot_grid(s).T.astype(np.complex64)
        self._row = torch.arange(s.n, device=device)[:, None] + s.doppler_range
        self._turn = _phases(-around * delay / s.q).to(device)
        self._wrap = _phases(-np.arange(s.m) / s.m).to(device)
        self._pilot = torch.from_numpy(pilot).to(device) * self._receiver.tables["twiddle"]

    def __call__(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples [MN] complex64 to LLRs and bits, as `receiver.Receiver`."""
        s, twiddle = self._s, self._receiver.tables["twiddle"]
        grid = torch.fft.fft(samples.view(s.n, s.m), dim=0, norm="ortho")
        h, sigma2 = self._receiver.estimate(grid)
        forward, adjoint = self._products(h)
        right = adjoint(grid * twiddle - forward(self._pilot))
        mask = self._receiver.tables["mask"]
        z = _solve(forward, adjoint, right, sigma2, mask, s.cg_iterations)
        return _decide(self._receiver, z * torch.conj_physical(twiddle))

    def _products(self, h: torch.Tensor) -> tuple[Product, Product]:
        """H and Hᴴ of the window's taps h [B, a], on grids z [N, M]."""
        s = self._s
        strongest = h.abs().flatten().topk(s.max_taps).indices
        row, column = strongest // s.window_delays, strongest % s.window_delays
        a, b = column + s.first_tap, row - s.doppler_range
        value = h[row, column]
        shift = b * (s.m + 2 * self._reach) + a
        here = self._row * (s.m + 2 * self._reach) + self._reach
        there = torch.conj_physical(value * self._turn[self._row + b, column])
        return (
            self._shifted(value * self._turn[self._row, column], here - shift),
            self._shifted(there, here + shift),
        )

    def _shifted(self, weight: torch.Tensor, first: torch.Tensor) -> Product:
        """Σ_t weight[l,t] z[M values from first[l,t] of the padded grid]; both [N, T]."""

        def product(z: torch.Tensor) -> torch.Tensor:
            rows = self._padded(z).flatten().unfold(0, self._s.m, 1)
            return torch.bmm(weight.unsqueeze(1), rows[first]).squeeze(1)

        return product

    def _padded(self, z: torch.Tensor) -> torch.Tensor:
        """z [N, M] continued by D rows and `_reach` columns on every side."""
        rows = self._s.doppler_range
        before, after = z[-rows:] * torch.conj_physical(self._wrap), z[:rows] * self._wrap
        z = torch.cat([before, z, after])
        return torch.cat([z[:, -self._reach :], z, z[:, : self._reach]], dim=1)


def _phases(turns: np.ndarray) -> torch.Tensor:
    """e^{j2π turns} as complex64."""
    return torch.from_numpy(np.exp(2j * np.pi * turns).astype(np.complex64))


def _decide(receiver: Receiver, grid: torch.Tensor) -> dict[str, torch.Tensor]:
    """Unbiased symbols, LLRs and bits of a solution on the grid [N, M].

    Unbiased by the symbols' own energy: not every form tells the channel's eigenvalues.
    """
    symbols = receiver.data(grid)
    mu = torch.linalg.vector_norm(symbols).square() / symbols.numel()
    llr = receiver.llr(symbols / mu, 1 / mu - 1)
    return {"symbols": symbols / mu, "llr": llr, "bits": (llr < 0).to(torch.uint8)}


def _solve(
    forward: Product,
    adjoint: Product,
    right: torch.Tensor,
    sigma2: torch.Tensor,
    mask: torch.Tensor,
    iterations: int,
) -> torch.Tensor:
    """Iterations of conjugate gradients on (P HᴴH P + σ²I) x = P right, P being the mask."""
    residual = right * mask
    direction, x = residual, torch.zeros_like(residual)
    energy = torch.linalg.vector_norm(residual).square()
    for _ in range(iterations):
        q = adjoint(forward(direction)) * mask + sigma2 * direction
        alpha = energy / torch.vdot(direction.flatten(), q.flatten()).real.clamp_min(TINY)
        x = x + alpha * direction
        residual = residual - alpha * q
        next_energy = torch.linalg.vector_norm(residual).square()
        direction = residual + (next_energy / energy.clamp_min(TINY)) * direction
        energy = next_energy
    return x


def captured(call: Call, samples: torch.Tensor) -> tuple[Callable[[], None], torch.Tensor]:
    """`call` as a CUDA graph of torch's own, and the bits it leaves."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(samples)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            bits = call(samples)["bits"]
    return graph.replay, bits
