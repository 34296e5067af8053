"""The same receiver in plain torch: banded in frequency, and with H as cuSPARSE CSR matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch

from otfs_pipeline.receiver import TINY, Receiver
from otfs_pipeline.settings import Settings
from otfs_pipeline.tables import tables


def banded(settings: Settings) -> Receiver:
    """`receiver.Receiver` on the GPU, with cuFFT: the frequency-banded form."""
    return Receiver(settings, {k: torch.from_numpy(v).cuda() for k, v in tables(settings).items()})


class CsrReceiver:
    """Time-domain conjugate gradients of the whole frame, H and Hᴴ as CSR built for every frame."""

    def __init__(self, settings: Settings) -> None:
        self._s = settings
        self._receiver = banded(settings)
        n = torch.arange(settings.q, device="cuda")
        turn = torch.arange(-settings.doppler_range, settings.doppler_range + 1, device="cuda")
        self._n = n
        self._harmonics = torch.polar(
            torch.ones(settings.q, turn.numel(), device="cuda"),
            (2 * torch.pi / settings.q) * ((n[:, None] * turn) % settings.q).float(),
        )
        self._turn = turn
        self._mask = self._receiver.tables["mask"].repeat(settings.n)
        amplitude = settings.pilot_amplitude / settings.n**0.5
        period = torch.arange(settings.n, device="cuda")
        self._pilot = torch.zeros(settings.q, dtype=torch.complex64, device="cuda")
        self._pilot[settings.pilot[0] :: settings.m] = torch.polar(
            torch.full((settings.n,), amplitude, device="cuda"),
            2 * torch.pi * ((period * settings.pilot[1]) % settings.n).float() / settings.n,
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
            torch.ones(self._turn.numel(), delay.numel(), device="cuda"),
            (-2 * torch.pi / s.q) * (self._turn[:, None] * delay).float(),
        )
        value = self._harmonics @ turned
        source = (self._n[:, None] - delay) % s.q
        target = (self._n[:, None] + delay) % s.q
        back = value.gather(0, target).conj().resolve_conj()
        rows = torch.arange(0, value.numel() + 1, delay.numel(), device="cuda")
        size = (s.q, s.q)
        forward = torch.sparse_csr_tensor(rows, source.flatten(), value.flatten(), size)
        adjoint = torch.sparse_csr_tensor(rows, target.flatten(), back.flatten(), size)
        x = self._solve(forward, adjoint, samples - forward @ self._pilot, sigma2)
        grid = torch.fft.fft(x.view(s.n, s.m), dim=0, norm="ortho")
        symbols = self._receiver.data(grid)
        # Unbiased by the symbols' own energy: a CSR matrix tells nothing of its eigenvalues.
        mu = torch.linalg.vector_norm(symbols).square() / symbols.numel()
        llr = self._receiver.llr(symbols / mu, 1 / mu - 1)
        return {"llr": llr, "bits": (llr < 0).to(torch.uint8)}

    def _solve(
        self,
        forward: torch.Tensor,
        adjoint: torch.Tensor,
        right: torch.Tensor,
        sigma2: torch.Tensor,
    ) -> torch.Tensor:
        residual = (adjoint @ right) * self._mask
        direction, x = residual, torch.zeros_like(residual)
        energy = torch.linalg.vector_norm(residual).square()
        for _ in range(self._s.iterations):
            q = (adjoint @ (forward @ direction)) * self._mask + sigma2 * direction
            alpha = energy / torch.vdot(direction, q).real.clamp_min(TINY)
            x = x + alpha * direction
            residual = residual - alpha * q
            next_energy = torch.linalg.vector_norm(residual).square()
            direction = residual + (next_energy / energy.clamp_min(TINY)) * direction
            energy = next_energy
        return x


Call = Callable[[torch.Tensor], dict[str, torch.Tensor]]


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
