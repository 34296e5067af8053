"""The front end's kernels compiled for the CPU by g++, with fibers for threads (cuda_on_cpu.h)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from otfs_pipeline.front.signature import FRONT, waveform_span
from otfs_pipeline.front.track import Tracker
from otfs_pipeline.receiver.kernels import front
from otfs_pipeline.settings import Settings
from tests.host.kernels_on_cpu import compiled, garbage

TYPES = {
    "complex64": "Sample", "float32": "float", "float64": "double", "int32": "int",
    "int64": "long long", "uint8": "unsigned char",
}  # fmt: skip


class FrontOnCpu:
    """`synchronize.FrontEnd` with the kernels of a link in place of its numpy."""

    def __init__(self, link: Settings, folder: Path) -> None:
        tracked = np.zeros(front.tracked(link).shape, np.float64)
        self.arrays = front.constants(link) | {"tracked": tracked}
        for name, buffer in front.buffers(link).items():
            self.arrays[name] = garbage(buffer.shape, buffer.dtype)
        self._types = {name: TYPES[array.dtype.name] for name, array in self.arrays.items()}
        self._types |= {"waveform": "Sample", "doubtful": "unsigned char"}
        self._tracker = Tracker(link, waveform_span(link))
        self._run = compiled(self._code(link), folder).run

    def _code(self, link: Settings) -> str:
        calls = []
        for name, (blocks, threads, _) in front.launches(link).items():
            arguments = ", ".join(front.parameters(link)[name])
            calls.append(f"launch({blocks}, {threads}, 1, 0, [=] {{ {name}({arguments}); }});")
        declared = ", ".join(f"{kind}* {name}" for name, kind in self._types.items())
        # The other files' macros and headers are the first one's.
        first, *others = front.files(link)
        files = front.source(link, first) + "".join(map(front.text, others))
        body = "\n".join(calls)
        return (
            f'#include "cuda_on_cpu.h"\n{files}\nextern "C" void run({declared}) {{\n{body}\n}}\n'
        )

    def burst(self, samples: np.ndarray, doubtful: bool) -> dict[str, float]:
        """One burst through the kernels: FRONT by name; `arrays` has the rest."""
        given = {
            "waveform": np.ascontiguousarray(samples),
            "doubtful": np.array(doubtful, np.uint8),
        }
        self._run(
            *[ctypes.c_void_p(({**self.arrays, **given})[name].ctypes.data) for name in self._types]
        )
        return dict(
            zip(FRONT, self.arrays["front"].reshape(-1, len(FRONT))[0].tolist(), strict=True)
        )

    def frames(self, stream: np.ndarray) -> list[tuple[dict[str, float], float, np.ndarray]]:
        """Of a whole stream: FRONT, where the preamble begins, and the frame of each burst."""
        found = []
        for bursts in (self._tracker.push(stream), self._tracker.finish()):
            for burst in bursts:
                told = self.burst(burst.samples, burst.doubtful)
                found.append((told, burst.start + told["delay"], self.arrays["frame"].copy()))
        return found
