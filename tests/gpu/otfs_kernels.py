"""The receiver's kernels against the float64 receiver, by names of cases. Prints what differed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import torch

from otfs_pipeline.frames import source
from otfs_pipeline.link import reference
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings

CASES = {
    "qpsk": (Settings(grid="64x32", modulation=4, iterations=8), 10.0, {}),
    "small": (Settings(grid="64x32"), 20.0, {}),
    "odd": (Settings(grid="31x37", nu_p=30e3, iterations=6), 25.0, {}),
    "64qam": (Settings(grid="256x32", modulation=64, max_taps=40, iterations=30), 30.0, {}),
    "sinc": (Settings(grid="256x32", pulse="sinc", gain_model="rayleigh"), 20.0, {}),
    "three": (Settings(grid="1024x32"), 20.0, {"cluster": 3, "each": 3}),
    "wide": (Settings(grid="1024x32"), 20.0, {"cluster": 1, "group": 4}),
    "halves": (Settings(grid="4096x12"), 20.0, {"each": 9, "cluster": 7}),
    "edges": (Settings(grid="4096x12"), 20.0, {"each": 11, "cluster": 3}),
    "barrier": (Settings(grid="4096x12"), 20.0, {"each": 11, "cluster": 3, "signals": False}),
    "large": (Settings(grid="4096x32", iterations=12), 20.0, {}),
}


def main() -> None:
    torch.cuda.synchronize()
    rng = np.random.default_rng()
    report = {}
    for name in sys.argv[1:]:
        link, snr, changes = CASES[name]
        geometry = replace(Geometry.of(link), **changes)
        frame = source.simulate(link, snr, int(rng.integers(1 << 30)), 0)
        first, second = (receive(geometry, frame.samples) for _ in range(2))
        exact = reference.receive(frame.samples.astype(np.complex128), link, periods=True)
        report[name] = {
            "each": geometry.each,
            "taps": int(first["taps"]) - int(np.count_nonzero(exact.estimate.taps.value)),
            "noise": float(first["noise_variance"] / exact.estimate.noise_variance - 1),
            "mu": float(first["mu"] / exact.mu - 1),
            "symbols": float(np.abs(first["symbols"] - exact.symbols).max()),
            "bits": float(np.mean(first["bits"] != exact.bits)),
            "signs": bool(((first["llr"] < 0) == first["bits"]).all()),
            "repeats": bool((first["llr"] == second["llr"]).all()),
        }
    print(json.dumps(report))


def receive(geometry: Geometry, samples: np.ndarray) -> dict[str, np.ndarray]:
    """All results, in memory that held NaNs before."""
    major, minor = torch.cuda.get_device_capability()
    tensors = {"samples": torch.from_numpy(samples).cuda()}
    for name, (shape, dtype) in program.buffers(geometry).items():
        tensor = torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")
        tensor.reshape(-1).view(torch.uint8).fill_(0xFF)
        tensors[name] = tensor
    functions = program.load(geometry, program.images(geometry, f"sm_{major}{minor}"))
    stream = torch.cuda.current_stream().cuda_stream
    for name, (_, parameters) in program.KERNELS.items():
        functions[name].launch(stream, tuple(tensors[p].data_ptr() for p in parameters))
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


main()
