"""The GPUs that the kernels are made for: what an architecture offers, and a product that has it.

Limits: "Technical Specifications per Compute Capability" of NVIDIA's CUDA C++ Programming Guide.
Products: NVIDIA's data sheets, without sparsity; nothing here was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foundryrt.errors import UsageError

MOST_REGISTERS = 65_536
"""Of a multiprocessor, and of a block."""


@dataclass(frozen=True)
class Platform:
    """A GPU architecture, and the product that a frame is divided for.

    `shared`: KiB of shared memory of a multiprocessor; `clusters`: whether blocks can reach one
    another's. Of the product: multiprocessors, single-precision TFLOPS, and GB/s of memory.
    """

    architecture: str
    shared: int
    clusters: bool
    product: str
    multiprocessors: int
    tflops: float
    bandwidth: float

    @property
    def block_shared(self) -> int:
        """Bytes of dynamic shared memory that a block can have: all but what the system keeps."""
        return self.resident_shared(1)

    def resident_shared(self, blocks: int) -> int:
        """The same where so many blocks share a multiprocessor."""
        return 1024 * (self.shared // blocks - 1)


HOPPER = Platform("sm_90", 228, True, "H100 SXM", 132, 66.9, 3350)
PLATFORMS = {
    platform.architecture: platform
    for platform in (
        Platform("sm_80", 164, False, "A100 80GB SXM", 108, 19.5, 2039),
        Platform("sm_86", 100, False, "RTX A6000", 84, 38.7, 768),
        Platform("sm_87", 164, False, "Jetson AGX Orin 64GB", 16, 5.3, 204.8),
        Platform("sm_89", 100, False, "L40S", 142, 91.6, 864),
        HOPPER,
        Platform("sm_100", 228, True, "B200", 148, 75.0, 8000),
        Platform("sm_110", 228, True, "Jetson T5000", 20, 8.1, 273),
        Platform("sm_120", 100, True, "RTX 5090", 170, 104.8, 1792),
    )
}
"""By architecture."""


def platform(architecture: str) -> Platform:
    """That of an architecture such as `sm_90`; of one that is not listed, what those of its major
    version all offer. UsageError where there is none."""
    if architecture in PLATFORMS:
        return PLATFORMS[architecture]
    alike = [known for name, known in PLATFORMS.items() if name[:-1] == architecture[:-1]]
    if not alike:
        raise UsageError(
            f"{architecture}: the CUDA receiver is made for {', '.join(PLATFORMS)}; use another GPU"
            " or --target host"
        )
    return replace(min(alike, key=lambda known: known.shared), architecture=architecture)
