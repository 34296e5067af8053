"""How a transport block is divided into code blocks and sent (3GPP TS 38.212, 5.2.2 and 5.4.2).

One layer and one codeword without limited-buffer rate matching or code block groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from otfs_pipeline.coding import crc
from otfs_pipeline.coding.graph import PUNCTURED_COLUMNS, LiftedGraph, lifted, lifting_sizes

# The largest code block of base graphs 1 and 2, in bits.
_LARGEST_BLOCK = {1: 8448, 2: 3840}
# Payload sizes up to 3824 bits (3GPP TS 38.214, table 5.1.3.2-1).
_SMALL_SIZES = (
    24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184,
    192, 208, 224, 240, 256, 272, 288, 304, 320, 336, 352, 368, 384, 408, 432, 456, 480, 504, 528,
    552, 576, 608, 640, 672, 704, 736, 768, 808, 848, 888, 928, 984, 1032, 1064, 1128, 1160, 1192,
    1224, 1256, 1288, 1320, 1352, 1416, 1480, 1544, 1608, 1672, 1736, 1800, 1864, 1928, 2024, 2088,
    2152, 2216, 2280, 2408, 2472, 2536, 2600, 2664, 2728, 2792, 2856, 2976, 3104, 3240, 3368, 3496,
    3624, 3752, 3824,
)  # fmt: skip
# Starts in the circular buffer in units of Z_c, by redundancy version (table 5.4.2.1-2).
_STARTS = {1: (0, 17, 33, 56), 2: (0, 13, 25, 43)}


def payload_size(coded_bits: int, rate: float) -> int:
    """Payload bits for a target code rate (3GPP TS 38.214, 5.1.3.2), a multiple of 8 from 24 on."""
    wanted = coded_bits * rate
    if wanted <= _SMALL_SIZES[-1]:
        step = 1 << max(3, math.floor(math.log2(max(wanted, 1.0))) - 6)
        quantized = max(_SMALL_SIZES[0], step * math.floor(wanted / step))
        return next(size for size in _SMALL_SIZES if size >= quantized)
    step = 1 << (math.floor(math.log2(wanted - 24)) - 5)
    quantized = max(3840, step * math.floor((wanted - 24) / step + 0.5))
    if rate <= 0.25:
        blocks = math.ceil((quantized + 24) / 3816)
    else:
        blocks = math.ceil((quantized + 24) / 8424) if quantized > 8424 else 1
    return 8 * blocks * math.ceil((quantized + 24) / (8 * blocks)) - 24


@dataclass(frozen=True)
class TransportBlock:
    """`payload_bits` (A) of a frame, sent in `coded_bits` (G) with `bits_per_symbol` (Q_m).

    `rate` is the target code rate, which chooses the base graph. ValueError where the standard has
    no such block.
    """

    payload_bits: int
    coded_bits: int
    bits_per_symbol: int
    rate: float
    redundancy_version: int = 0

    @classmethod
    def of(cls, coded_bits: int, bits_per_symbol: int, rate: float) -> TransportBlock:
        """The block that fills `coded_bits` at a target code rate."""
        return cls(payload_size(coded_bits, rate), coded_bits, bits_per_symbol, rate)

    def __post_init__(self) -> None:
        if self.redundancy_version not in range(4):
            raise ValueError(f"redundancy version {self.redundancy_version}: use 0 to 3")
        if self.coded_bits % self.bits_per_symbol:
            raise ValueError(f"{self.coded_bits} coded bits are no whole symbols")
        if self.coded_bits < self.blocks * self.bits_per_symbol:
            raise ValueError(f"{self.coded_bits} coded bits for {self.blocks} code blocks")
        if (self.payload_bits + self.check_bits) % self.blocks:
            raise ValueError(f"{self.payload_bits} payload bits do not fill {self.blocks} blocks")

    @property
    def effective_rate(self) -> float:
        """Bits of the code blocks, checksums included, over coded bits."""
        return self.blocks * self.block_bits / self.coded_bits

    @property
    def check(self) -> str:
        """The CRC of the transport block."""
        return "24A" if self.payload_bits > 3824 else "16"

    @property
    def check_bits(self) -> int:
        return crc.length(self.check)

    @property
    def base_graph(self) -> int:
        """1 or 2 (7.2.2)."""
        small = self.payload_bits <= 292 or (self.payload_bits <= 3824 and self.rate <= 0.67)
        return 2 if small or self.rate <= 0.25 else 1

    @property
    def blocks(self) -> int:
        """Code blocks (C)."""
        whole, largest = self.payload_bits + self.check_bits, _LARGEST_BLOCK[self.base_graph]
        return 1 if whole <= largest else -(-whole // (largest - crc.length("24B")))

    @property
    def block_check(self) -> str:
        """The CRC at the end of each code block: its own, or the transport block's only one."""
        return "24B" if self.blocks > 1 else self.check

    @property
    def block_bits(self) -> int:
        """Bits of a code block with its CRC, without filler bits (K')."""
        whole = self.payload_bits + self.check_bits
        return whole // self.blocks + (crc.length("24B") if self.blocks > 1 else 0)

    @cached_property
    def graph(self) -> LiftedGraph:
        """The base graph with the smallest lifting size that holds a block."""
        whole = self.payload_bits + self.check_bits
        columns = 22
        if self.base_graph == 2:
            columns = 10 if whole > 640 else 9 if whole > 560 else 8 if whole > 192 else 6
        lifting = min(z for z in lifting_sizes() if columns * z >= self.block_bits)
        return lifted(self.base_graph, lifting)

    @property
    def buffer_bits(self) -> int:
        """Length of the circular buffer (N_cb), filler bits included."""
        return (self.graph.columns - PUNCTURED_COLUMNS) * self.graph.lifting

    @property
    def start(self) -> int:
        """The first bit of the circular buffer that is sent (k_0)."""
        return _STARTS[self.base_graph][self.redundancy_version] * self.graph.lifting

    def sent_bits(self, block: int) -> int:
        """Bits that a code block is sent in (E_r)."""
        symbols = self.coded_bits // self.bits_per_symbol
        more = block >= self.blocks - symbols % self.blocks
        return self.bits_per_symbol * (symbols // self.blocks + more)
