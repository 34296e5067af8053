"""torch.fft's calls as matrix products, for graphs that cannot hold an FFT library's kernels."""

from __future__ import annotations

import torch

from otfs_pipeline.reference import eigenvalue_bins
from otfs_pipeline.settings import Settings


def lengths(settings: Settings) -> tuple[int, ...]:
    """Lengths of the DFTs that the receiver takes."""
    return tuple(sorted({settings.m, settings.n, *eigenvalue_bins(settings)}))


class MatrixTransform:
    """`fft`, `ifft` and `fft2` of complex64 tensors as torch.fft has them.

    `tables` are those of `dft.dft_tables` by length, as tensors on the data's device.
    """

    def __init__(self, tables: dict[int, dict[str, torch.Tensor]]) -> None:
        self._tables = tables

    def fft(
        self, x: torch.Tensor, n: int | None = None, dim: int = -1, norm: str | None = None
    ) -> torch.Tensor:
        x = x.movedim(dim, -1)
        n = n or x.shape[-1]
        if x.shape[-1] < n:
            x = torch.cat([x, x.new_zeros(*x.shape[:-1], n - x.shape[-1])], dim=-1)
        t = self._tables[n]
        a, b = t["twiddle"].shape
        # Element i + a·j: sum over j, turn by i·k, sum over i into bin k + b·l.
        rows = x.reshape(*x.shape[:-1], b, a).transpose(-1, -2)
        partial = torch.matmul(rows, t["inner"]) * t["twiddle"]
        out = torch.matmul(t["outer"], partial).reshape(*x.shape[:-1], n).movedim(-1, dim)
        return out * n**-0.5 if norm == "ortho" else out

    def ifft(
        self, x: torch.Tensor, n: int | None = None, dim: int = -1, norm: str | None = None
    ) -> torch.Tensor:
        out = torch.conj_physical(self.fft(torch.conj_physical(x), n, dim, norm))
        return out if norm == "ortho" else out / out.shape[dim]

    def fft2(self, x: torch.Tensor, s: tuple[int, int]) -> torch.Tensor:
        return self.fft(self.fft(x, s[1], -1), s[0], -2)
