"""DFTs as matrix products against torch.fft."""

from __future__ import annotations

import pytest
import torch

from otfs_pipeline.dft import dft_tables
from otfs_pipeline.transform import MatrixTransform


@pytest.mark.parametrize("length", [1, 7, 12, 32, 96, 1024])
def test_every_call_agrees_with_torch(length: int) -> None:
    tables = {n: {k: torch.from_numpy(v) for k, v in dft_tables(n).items()} for n in (length, 8)}
    own = MatrixTransform(tables)
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(8, length, dtype=torch.complex64, generator=generator)
    for got, want in (
        (own.fft(x, norm="ortho"), torch.fft.fft(x, norm="ortho")),
        (own.fft(x, dim=0), torch.fft.fft(x, dim=0)),
        (own.ifft(x), torch.fft.ifft(x)),
        (own.ifft(x, dim=1, norm="ortho"), torch.fft.ifft(x, dim=1, norm="ortho")),
        (own.fft2(x[:3], (8, length)), torch.fft.fft2(x[:3], (8, length))),
        (own.fft(x[:, :1], n=length), torch.fft.fft(x[:, :1], n=length)),
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
