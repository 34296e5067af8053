"""How frames were, by the kernels and by torch on the CPU. Prints both as JSON."""

from __future__ import annotations

import json

import torch

from foundryc.cuda.kernels import architecture
from otfs_pipeline.frames import source
from otfs_pipeline.link import frame
from otfs_pipeline.receiver.kernels.platforms import platform
from otfs_pipeline.receiver.kernels.quality import KernelQuality
from otfs_pipeline.receiver.quality import measure
from otfs_pipeline.settings import Settings

LINKS = {
    "small": Settings(grid="31x37", nu_p=30e3, modulation=4),
    "64qam": Settings(grid="256x32", modulation=64),
    "large": Settings(grid="16384x32"),
}


def numbers(link: Settings) -> dict[str, list[float]]:
    """Name to what the kernels and torch say."""
    samples = torch.from_numpy(source.simulate(link, 20.0, 3, 0).samples)
    samples[link.m : 3 * link.m] = 0
    samples[:5] = samples[torch.view_as_real(samples).abs().amax(-1).argmax()]
    generator = torch.Generator().manual_seed(1)
    symbols = torch.randn(frame.data_symbols(link), dtype=torch.complex64, generator=generator)
    on_gpu = samples.cuda(), symbols.cuda()
    kernels = KernelQuality(link, platform(architecture()))(*on_gpu)
    host = measure(samples, symbols, link)
    return {name: [float(kernels[name]), float(value)] for name, value in host.items()}


print(json.dumps({name: numbers(link) for name, link in LINKS.items()}))
