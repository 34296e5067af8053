"""The LDPC decoder on the GPU: its constants, buffers and launches; two kernels, decode.cu."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from foundryc.cuda.kernels import Kernel, Loader
from foundryrt.errors import UsageError
from otfs_pipeline.coding import crc
from otfs_pipeline.coding.graph import PUNCTURED_COLUMNS
from otfs_pipeline.coding.rate_matching import received_rows
from otfs_pipeline.coding.transport import TransportBlock
from otfs_pipeline.receiver.decoder import FILLER_LLR, OFFSET, SLOPE, places
from otfs_pipeline.receiver.kernels.launch import Tensors, launch, made
from otfs_pipeline.receiver.kernels.platforms import Platform
from otfs_pipeline.receiver.kernels.program import Launch, compiled, text
from otfs_pipeline.signature import Tensor

PARAMETERS = {
    "decode": ("llr", "rows", "edges", "block_check", "part_check", "payload", "block_errors",
               "parts"),
    "check_frame": ("parts", "places", "block_errors", "frame_error"),
}  # fmt: skip
"""The buffers of each kernel, which run in this order."""


class Program(NamedTuple):
    """The decoder of a transport block, with a number of iterations at most."""

    block: TransportBlock
    iterations: int

    @property
    def columns(self) -> int:
        """Columns of the base graph that are decoded."""
        return self.block.graph.information_columns + received_rows(self.block)

    @property
    def launches(self) -> dict[str, Launch]:
        """How each kernel is launched."""
        lifting = self.block.graph.lifting
        threads = 32 * -(-lifting // 32)
        return {
            "decode": Launch(self.block.blocks, threads, 4 * self.columns * lifting),
            "check_frame": Launch(1, 32, 0),
        }

    @property
    def buffers(self) -> dict[str, Tensor]:
        """All that the kernels write: scratch, then the decoder's outputs."""
        return {
            "parts": Tensor((self.block.blocks,), "int32"),
            "payload": Tensor((self.block.payload_bits,), "uint8"),
            "block_errors": Tensor((self.block.blocks,), "uint8"),
            "frame_error": Tensor((), "uint8"),
        }

    def constants(self) -> dict[str, np.ndarray]:
        """The tables that the kernels read; remainders of CRCs are words, highest power first."""
        block = self.block
        rows = block.graph.rows[: received_rows(block)]
        edges = [entry.column << 16 | entry.shift for row in rows for entry in row]
        part = block.block_bits - crc.length(block.block_check)
        return {
            "rows": np.cumsum([0, *map(len, rows)]).astype(np.int32),
            "edges": np.array(edges, np.int32),
            "block_check": crc.words(block.block_check, block.block_bits).astype(np.int32),
            "part_check": crc.words(block.check, part).astype(np.int32),
            "places": places(block).astype(np.int32),
        }

    def source(self) -> str:
        """What is compiled, its sizes as macros."""
        return self.macros() + text("decode.cu")

    def macros(self) -> str:
        """The sizes as #define lines."""
        block, graph = self.block, self.block.graph
        known = graph.information_columns * graph.lifting
        fillers = known - block.block_bits
        punctured = PUNCTURED_COLUMNS * graph.lifting
        first_filler = block.block_bits - punctured
        rows = received_rows(block)
        values = {
            "BLOCKS": block.blocks,
            "BLOCK_BITS": block.block_bits,
            "PART_BITS": block.block_bits - crc.length(block.block_check),
            "PAYLOAD_BITS": block.payload_bits,
            "CHECK_BITS": block.check_bits,
            "CODED_BITS": block.coded_bits,
            "BITS_PER_SYMBOL": block.bits_per_symbol,
            "LIFTING": graph.lifting,
            "KNOWN": graph.information_columns,
            "ROWS": rows,
            "COLUMNS": self.columns,
            "EDGES": sum(map(len, graph.rows[:rows])),
            "FILLERS": fillers,
            "BUFFER": block.buffer_bits - fillers,
            # The start, in a buffer without filler bits.
            "FIRST": block.start - min(max(block.start - first_filler, 0), fillers),
            "ITERATIONS": self.iterations,
            "THREADS": self.launches["decode"].threads,
        }
        reals = {"OFFSET": OFFSET, "SLOPE": SLOPE, "FILLER_LLR": FILLER_LLR}
        lines = [f"#define {name} ({value})\n" for name, value in values.items()]
        lines += [f"#define {name} ({value:.9e}f)\n" for name, value in reals.items()]
        each = " ".join(f"DO({degree})" for degree in sorted(set(map(len, graph.rows[:rows]))))
        return "".join([*lines, f"#define EACH_DEGREE(DO) {each}\n"])


class KernelDecoder:
    """As `decoder.Decoder`, on the current CUDA device and stream."""

    def __init__(
        self,
        program: Program,
        constants: Tensors,
        platform: Platform,
        load: Loader = Kernel.load,
    ) -> None:
        """Compiles the kernels; `constants` are those of the program, on the device.

        UsageError where a code block does not fit into the platform's shared memory; FoundryError
        where the device cannot load them.
        """
        shared = program.launches["decode"].shared
        if shared > platform.block_shared:
            raise UsageError(
                f"the decoder needs {shared} bytes of shared memory a block,"
                f" {platform.architecture} has {platform.block_shared}; use a higher --code-rate or"
                " another GPU"
            )
        source = text("dynamic.cuh") + program.source()
        image = compiled(source, "decode.cu", platform.architecture)
        self._program = program
        self._constants = constants
        self._kernels = {
            name: load(image, name, launch.shared) for name, launch in program.launches.items()
        }

    def __call__(self, llr: torch.Tensor, into: Tensors | None = None) -> dict[str, torch.Tensor]:
        """LLRs [coded bits] as received to `payload`, `block_errors` and `frame_error`.

        Those of `into` are written where they are.
        """
        buffers = self._program.buffers
        tensors = made(buffers, {**self._constants, **(into or {}), "llr": llr}, llr)
        launch(self._kernels, self._program.launches, PARAMETERS, tensors)
        return {name: tensors[name] for name in list(buffers)[1:]}
