"""The receiver in torch: complex64, static shapes, no control flow on data, so it is one graph.

A vector of the solver is z[l,k] = X[k,l] e^{-j2πkl/Q}, [N, M]: a Zak grid with a phase, so a guard
strip is still a mask over k, and N short DFTs over k give the spectrum S[l + Nu] as [N, M]. There
the channel is banded (`banded.py`), and a shift by b bins is a shift by b whole rows.
"""

from __future__ import annotations

import torch

from foundryrt.errors import UsageError
from otfs_pipeline.link.pilot import seen_delays
from otfs_pipeline.link.reference import eigenvalue_bins
from otfs_pipeline.receiver.pilot import estimate
from otfs_pipeline.settings import Settings

# Keeps 0/0 out of a frame of zeros; far below the energy of any other.
TINY = 1e-30


class Receiver:
    """Receives frames with the constants of `tables.tables` as tensors, on their device.

    UsageError for frames with a prefix.
    """

    def __init__(self, settings: Settings, tables: dict[str, torch.Tensor]) -> None:
        if settings.waveform != "zak":
            raise UsageError(f"waveform {settings.waveform}: the receiver in torch takes zak")
        self.settings = settings
        self.tables = tables

    def __call__(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples [MN] complex64 of one frame to the outputs of `signature.signature`."""
        t = self.tables
        grid = torch.fft.fft(samples.view(self.settings.n, self.settings.m), dim=0, norm="ortho")
        h, noise_variance = self.estimate(grid)
        forward, adjoint = self.bands(h)
        spectrum = torch.fft.fft(grid * t["twiddle"], dim=1, norm="ortho")
        spectrum = spectrum - self.multiply(forward, t["pilot"])
        z, residual, eigenvalue = self.solve(spectrum, forward, adjoint, h, noise_variance)
        c = (1 - residual) / (eigenvalue + noise_variance)
        mu = (eigenvalue * c).mean()
        variance = ((eigenvalue + noise_variance) * eigenvalue * c * c).mean() / (mu * mu) - 1
        symbols = self.data(z * torch.conj_physical(t["twiddle"])) / mu
        llr = self.llr(symbols, variance)
        return {
            "symbols": symbols,
            "llr": llr,
            "bits": (llr < 0).to(torch.uint8),
            "noise_variance": noise_variance,
            "mu": mu,
            # Each symbol depends on every sample, so one shows whether all are finite.
            "variance": variance + 0 * torch.view_as_real(symbols)[0, 0],
            "taps": (h.abs() > 0).sum(),
        }

    def estimate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Taps h[b, a] of the window and σ² from a received grid [N, M]."""
        delays = seen_delays(self.settings)
        seen = grid[:, int(delays[0]) : int(delays[-1]) + 1]
        return estimate(seen, self.settings, self.tables)

    def bands(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A_b[f] and conj(A_b[f+b]), [B, N, M] each: the coefficients of H and of Hᴴ."""
        reach, n = self.settings.doppler_range, self.settings.n
        taps = h.unsqueeze(1) * self.tables["delay"]
        forward = torch.fft.fft(taps, n=self.settings.m, dim=2) * self.tables["ramp"]
        around = torch.conj_physical(_cyclic(forward, reach))
        # Row j of the adjoint multiplies a spectrum shifted by j - D, which is tap b = D - j.
        shifted = [
            around[reach + b, reach + b : reach + b + n] for b in range(reach, -reach - 1, -1)
        ]
        return forward, torch.stack(shifted)

    def multiply(self, bands: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """Σ_j bands[j] · (spectrum shifted by j - D bins), [N, M]."""
        reach, n = self.settings.doppler_range, self.settings.n
        around = _cyclic(spectrum, reach)
        out = bands[0] * around[2 * reach : 2 * reach + n]
        for j in range(1, 2 * reach + 1):
            out.addcmul_(bands[j], around[2 * reach - j : 2 * reach - j + n])
        return out

    def solve(
        self,
        spectrum: torch.Tensor,
        forward: torch.Tensor,
        adjoint: torch.Tensor,
        h: torch.Tensor,
        noise_variance: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Conjugate gradients: z [N, M], and the residual polynomial on the eigenvalues of HᴴH."""
        mask = self.tables["mask"]
        eigenvalue = torch.view_as_real(torch.fft.fft2(h, s=eigenvalue_bins(self.settings)))
        eigenvalue = eigenvalue.square().sum(-1)
        damped = eigenvalue + noise_variance
        polynomial = steepest = torch.ones_like(eigenvalue)
        residual = torch.fft.ifft(self.multiply(adjoint, spectrum), dim=1, norm="ortho") * mask
        direction, z = residual, torch.zeros_like(residual)
        energy = self.energy(residual)
        for _ in range(self.settings.cg_iterations):
            through = self.multiply(forward, torch.fft.fft(direction, dim=1, norm="ortho"))
            back = torch.fft.ifft(self.multiply(adjoint, through), dim=1, norm="ortho") * mask
            # pᴴ(HᴴH+σ²)p without a product of its own.
            curvature = self.energy(through) + noise_variance * self.energy(direction)
            alpha = energy / curvature.clamp_min(TINY)
            z = z + alpha * direction
            residual = residual - alpha * (back + noise_variance * direction)
            next_energy = self.energy(residual)
            beta = next_energy / energy.clamp_min(TINY)
            direction = residual + beta * direction
            energy = next_energy
            polynomial = polynomial - alpha * damped * steepest
            steepest = polynomial + beta * steepest
        # Out of bounds means beyond the spectrum (see `equalize.bias`); a NaN is out of bounds too.
        inside = polynomial.abs() <= 1
        return z, torch.where(inside, polynomial, torch.zeros_like(polynomial)), eigenvalue

    def energy(self, z: torch.Tensor) -> torch.Tensor:
        """Σ |z|²; on a CPU the norm of complex numbers would take as long as all else together."""
        parts = torch.view_as_real(z).flatten()
        return torch.dot(parts, parts)

    def data(self, grid: torch.Tensor) -> torch.Tensor:
        """The data bins of a grid [N, M], delay-major, [D]."""
        first = self.settings.pilot_bin[0] - self.settings.guard_bins // 2
        last = first + self.settings.guard_bins
        return torch.cat([grid[:, :first], grid[:, last:]], dim=1).t().reshape(-1)

    def llr(self, symbols: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Exact max-log LLRs [D, bits] (see `qam.py`)."""
        axis_bits = self.settings.bits_per_symbol // 2
        axes = torch.view_as_real(symbols).unsqueeze(-1)
        distance = (axes - self.tables["levels"]).square() / variance
        # The index of a level is its bits: one dimension of two for each.
        distance = distance.reshape(-1, 2, *[2] * axis_bits)
        llr = []
        for position in range(axis_bits):
            others = [2 + i for i in range(axis_bits) if i != position]
            best = distance.amin(others) if others else distance
            llr.append(best[..., 1] - best[..., 0])
        return torch.cat(llr, dim=1)


def _cyclic(spectrum: torch.Tensor, reach: int) -> torch.Tensor:
    """[..., N, M] with `reach` rows more on both sides: S[f] at f = l + Nu for l beyond 0..N-1."""
    before = spectrum[..., -reach:, :].roll(1, -1)
    after = spectrum[..., :reach, :].roll(-1, -1)
    return torch.cat([before, spectrum, after], dim=-2)
