"""DFTs as matrix products: exact sums of products, for devices whose FFT library a bundle refuses.

cuFFT keeps the address of a table in a variable of its module, so its kernels mean something only
in the process that made their plan. A DFT of length n = a·b is two products with small matrices
and a twiddle between them (Cooley and Tukey): x[i + a·j], j over b, then i over a.
"""

from __future__ import annotations

import math

import numpy as np


def factors(n: int) -> tuple[int, int]:
    """(a, b) with a·b = n, as near to a square as n allows."""
    a = next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)
    return a, n // a


def dft_tables(n: int) -> dict[str, np.ndarray]:
    """complex64 `inner` [b, b], `twiddle` [a, b] and `outer` [a, a] of the unscaled DFT."""
    a, b = factors(n)

    def turn(rows: int, columns: int, period: int) -> np.ndarray:
        # Reduced before the division: large products lose their phase in float64 too.
        product = np.arange(rows)[:, None] * np.arange(columns) % period
        return np.exp(-2j * np.pi * product / period).astype(np.complex64)

    return {"inner": turn(b, b, b), "twiddle": turn(a, b, n), "outer": turn(a, a, a)}
