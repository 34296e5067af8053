"""The front end's kernels against the front end in numpy, and what the receiver makes of both.

Prints JSON. Of each link: frames, and the largest difference in samples of timing, Hz of carrier,
share of the samples' energy, DC over the signal; bits of all frames that differ, of how many; and
whether a second pass over the stream gives the same.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from foundryc.cuda.kernels import architecture
from otfs_pipeline.front.signature import FRONT, waveform_span
from otfs_pipeline.front.synchronize import FrontEnd
from otfs_pipeline.front.track import Tracker
from otfs_pipeline.receiver.kernels import front
from otfs_pipeline.receiver.kernels.frame import KernelFrame, KernelWaveform, tables
from otfs_pipeline.receiver.kernels.platforms import platform
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation

OFFSETS = Impairments(snr_db=25.0, delay=3.3, carrier_hz=900.0, dc=0.1, iq_db=1.0, iq_degrees=5.0)
LINKS = {
    "small": Settings(grid="64x32"),
    "odd": Settings(grid="31x37", nu_p=30e3, guard=9, max_taps=64),
    "two roll-offs": Settings(grid="256x32", rolloff=0.1, doppler_rolloff=0.2),
    "sinc": Settings(grid="64x32", pulse="sinc", guard=55, doppler_reach=8),
    "spread": Settings(grid="256x32", pilot="spread"),
    "prefix": Settings(grid="256x32", waveform="cp"),
    "antennas": Settings(grid="256x32", antennas=2, gain_model="rayleigh"),
    "spread to 4": Settings(grid="128x32", pilot="spread", antennas=4),
    "middle": Settings(grid="1024x32"),
    "large": Settings(grid="16384x32"),
    "large spread": Settings(grid="16384x32", pilot="spread"),
}


def _on_device(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value).cuda() for name, value in values.items()}


class Kernels:
    """A link's front end and receiver on the GPU."""

    def __init__(self, link: Settings) -> None:
        here = platform(architecture())
        of_front = _on_device(front.constants(link))
        of_front["tracked"] = torch.zeros(
            front.tracked(link).shape, dtype=torch.float64, device="cuda"
        )
        self.receive = KernelFrame(link, _on_device(tables(link)), here)
        self._whole = KernelWaveform(link, of_front, self.receive, here)
        self._link = link

    def frames(self, stream: np.ndarray) -> list[tuple[dict, float, np.ndarray, np.ndarray]]:
        """FRONT, start, samples and bits of each burst."""
        tracker, found = Tracker(self._link, waveform_span(self._link)), []
        for bursts in (tracker.push(stream), tracker.finish()):
            for burst in bursts:
                waveform = torch.from_numpy(burst.samples.copy()).cuda()
                doubtful = torch.tensor(burst.doubtful, dtype=torch.uint8, device="cuda")
                got = self._whole(waveform, doubtful)
                told = dict(zip(FRONT, got["front"].view(-1, len(FRONT))[0].tolist(), strict=True))
                samples, bits = (got[name].cpu().numpy() for name in ("frame", "bits"))
                found.append((told, burst.start + told["delay"], samples, bits))
        return [one for one in found if one[0]["given"] == 1]


def compare(link: Settings) -> dict[str, object]:
    """Of a stream of three frames."""
    made = Simulation(link, 4, impairments=OFFSETS)
    stream = np.concatenate(list(made.pieces(range(3))))
    host = FrontEnd(link)
    expected = [*host.push(stream), *host.finish()]
    kernels = Kernels(link)
    got, again = kernels.frames(stream), Kernels(link).frames(stream)
    bits = [kernels.receive(torch.from_numpy(one.samples).cuda())["bits"] for one in expected]
    pairs = list(zip(got, expected, strict=False))
    return {
        "frames": [len(got), len(expected)],
        "timing": max(abs(g[1] - e.start) for g, e in pairs),
        "carrier_hz": max(abs(g[0]["carrier"] - e.carrier_hz) for g, e in pairs),
        "samples": max(
            float(np.sum(np.abs(g[2] - e.samples) ** 2) / np.sum(np.abs(e.samples) ** 2))
            for g, e in pairs
        ),
        "bits": int(sum((g[3] != b.cpu().numpy()).sum() for g, b in zip(got, bits, strict=False))),
        "of": int(sum(b.numel() for b in bits)),
        "repeats": all((g[2] == a[2]).all() for g, a in zip(got, again, strict=True)),
    }


print(json.dumps({name: compare(link) for name, link in LINKS.items()}))
