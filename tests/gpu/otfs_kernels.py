"""The receiver's kernels against the float64 receiver. Prints what differed, as JSON.

Arguments: the seed of the frames, then names of cases.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import torch
from otfs_rounding import bounds

from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.platforms import HOPPER
from otfs_pipeline.settings import Settings

PLAIN = {"preconditioned": False}
# As GPUs without clusters have it; it runs on all.
MAILBOX = PLAIN | {"platform": replace(HOPPER, clusters=False)}
CASES = {
    "qpsk": (Settings(grid="64x32", modulation=4, iterations=8), 10.0, PLAIN),
    "small": (Settings(grid="64x32"), 20.0, PLAIN),
    "preconditioned": (Settings(grid="64x32"), 20.0, {}),
    "odd": (Settings(grid="31x37", nu_p=30e3, iterations=6), 25.0, PLAIN),
    "64qam": (Settings(grid="256x32", modulation=64, max_taps=40, iterations=30), 30.0, PLAIN),
    "sinc": (Settings(grid="256x32", pulse="sinc", gain_model="rayleigh"), 20.0, PLAIN),
    "three": (Settings(grid="1024x32"), 20.0, {"cluster": 3, "each": 3}),
    "wide": (Settings(grid="1024x32"), 20.0, PLAIN | {"cluster": 1, "group": 4}),
    "halves": (Settings(grid="4096x12"), 20.0, PLAIN | {"each": 9, "cluster": 7}),
    "edges": (Settings(grid="4096x12"), 20.0, PLAIN | {"each": 11, "cluster": 3}),
    "overlap": (Settings(grid="4096x12"), 20.0, {"each": 11, "cluster": 3}),
    "antennas": (Settings(grid="1024x32", antennas=4), 15.0, {}),
    "spread": (Settings(grid="1024x32", pilot="spread"), 20.0, {}),
    "spread_antennas": (Settings(grid="256x32", pilot="spread", antennas=2), 15.0, {"each": 3}),
    "prefix": (Settings(grid="1024x32", waveform="cp"), 20.0, {}),
    "prefix_antennas": (Settings(grid="256x32", waveform="cp", antennas=2), 15.0, {"each": 3}),
    "prefix_sinc": (Settings(grid="256x32", waveform="cp", pulse="sinc"), 20.0, {}),
    "prefix_mailbox": (
        Settings(grid="1024x32", waveform="cp"), 20.0, MAILBOX | {"each": 3, "cluster": 7}
    ),
    "one_block": (Settings(grid="1024x32"), 20.0, MAILBOX | {"cluster": 1, "each": 5}),
    "mailbox": (Settings(grid="4096x12"), 20.0, MAILBOX | {"each": 11, "cluster": 3}),
    "mailbox_antennas": (
        Settings(grid="1024x32", antennas=4), 15.0, MAILBOX | {"each": 3, "cluster": 7}
    ),
    "large": (Settings(grid="4096x32", iterations=12), 20.0, {}),
}  # fmt: skip


def main() -> None:
    torch.cuda.synchronize()
    seed = int(sys.argv[1])
    print(json.dumps({name: compare(name, seed) for name in sys.argv[2:]}))


def compare(name: str, seed: int) -> dict[str, object]:
    """What differed in a case, with the bounds of its frame where float32 alone makes errors."""
    link, snr, changes = CASES[name]
    geometry = replace(Geometry.of(link), **changes)
    frame = source.simulate(link, snr, seed, 0)
    first, second = (receive(geometry, frame.samples) for _ in range(2))
    exact = reference.receive(
        frame.samples.astype(np.complex128), link, periods=True, blocks=geometry.blocks
    )
    kept = np.array([np.count_nonzero(each.taps.value) for each in exact.estimates])
    noise = np.array([each.noise_variance for each in exact.estimates])
    rounding_alone = geometry.each == 1 and not geometry.preconditioned
    allowed = bounds(frame.samples, geometry, exact) if rounding_alone else None
    wrong = first["bits"] != exact.bits
    equalized = first["symbols"] * first["mu"]
    return {
        "taps": int(np.abs(first["taps"] - kept).max()),
        "noise": float(np.abs(first["noise_variance"] / noise - 1).max()),
        "mu": float(first["mu"] / exact.mu - 1),
        "mu_bound": allowed.mu if allowed else None,
        "symbols": float(np.abs(first["symbols"] - exact.symbols).max()),
        "equalized": float(np.abs(equalized - exact.symbols * exact.mu).max()),
        "equalized_bound": allowed.equalized if allowed else None,
        "bits": float(np.mean(wrong)),
        "clear_bits": int(np.sum(wrong & (np.abs(exact.llr) > allowed.llr))) if allowed else None,
        "signs": bool(((first["llr"] < 0) == first["bits"]).all()),
        "repeats": bool((first["llr"] == second["llr"]).all()),
    }


def receive(geometry: Geometry, samples: np.ndarray) -> dict[str, np.ndarray]:
    """All results, in memory that held NaNs before."""
    major, minor = torch.cuda.get_device_capability()
    link = geometry.settings
    tensors = {"samples": torch.from_numpy(samples).cuda()}
    for name, table in program.constants(link).items():
        tensors[name] = torch.from_numpy(table).cuda()
    for name, buffer in program.buffers(geometry).items():
        tensor = torch.empty(buffer.shape, dtype=getattr(torch, buffer.dtype), device="cuda")
        tensor.reshape(-1).view(torch.uint8).fill_(0xFF)
        tensors[name] = tensor
    loaded = program.Program(geometry, program.images(geometry, f"sm_{major}{minor}"))
    stream = torch.cuda.current_stream().cuda_stream
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    for name in program.kernels(link):
        loaded.launch(name, addresses, stream)
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


main()
