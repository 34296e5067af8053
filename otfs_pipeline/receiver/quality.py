"""How a received frame was, in torch: a few numbers a frame, so that the host reads no samples."""

from __future__ import annotations

import torch

from otfs_pipeline.settings import Settings

# Samples whose energy is looked at together, within one Doppler period.
CELL = 32
# Keeps 0/0 out of cells without any energy; far below the energy of any other.
TINY = 1e-30


def measure(
    samples: torch.Tensor, symbols: torch.Tensor, settings: Settings
) -> dict[str, torch.Tensor]:
    """Samples [MN] and unbiased symbols [D] to the outputs of `signature.quality`, float32 [].

    Samples may be [antennas, MN]. The median over the periods is the lower of the two in the
    middle.
    """
    m, n, antennas = settings.m, settings.n, samples.shape[:-1]
    cells = -(-m // CELL)
    last = m - CELL * (cells - 1)
    parts = torch.view_as_real(samples).abs()
    energy = parts.square().sum(-1)
    padded = torch.nn.functional.pad(energy.view(*antennas, n, m), (0, CELL * cells - m))
    cell = padded.view(*antennas, n, cells, CELL).sum(-1)
    median = cell.median(-2, keepdim=True).values
    empty = (cell == 0).to(torch.float32).sum(-2)
    peak = parts.amax((-2, -1), keepdim=True)
    return {
        "power": energy.mean(-1),
        "peak": peak.view(antennas),
        "clipped": (parts.amax(-1, keepdim=True) == peak).to(torch.float32).sum((-2, -1)),
        "burst": (cell / median.clamp_min(TINY)).amax((-2, -1)),
        "missing": CELL * empty[..., :-1].sum(-1) + last * empty[..., -1],
        "evm": _distance(symbols, settings).square().sum(-1).mean().sqrt(),
    }


def _distance(symbols: torch.Tensor, settings: Settings) -> torch.Tensor:
    """From the nearest point of the constellation, along both axes, [D, 2]."""
    levels = 1 << (settings.bits_per_symbol // 2)
    axes = torch.view_as_real(symbols) / settings.level_scale
    # The levels are odd numbers here.
    nearest = (2 * (axes / 2).floor() + 1).clamp(1 - levels, levels - 1)
    return (axes - nearest) * settings.level_scale
