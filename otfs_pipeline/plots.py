"""PNG plots of a run; matplotlib is imported only when one is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from foundryrt.errors import FoundryError


def constellation(path: str, symbols: np.ndarray, title: str) -> None:
    """Scatter of unbiased symbols [S] complex."""
    figure, axes = _figure(path)
    axes.plot(symbols.real, symbols.imag, ".", markersize=1, alpha=0.3)
    axes.set(title=title, xlabel="in phase", ylabel="quadrature", aspect="equal")
    figure.savefig(path, dpi=120)


def latency(path: str, milliseconds: np.ndarray, deadline: float, title: str) -> None:
    """Histogram of latencies [F] in ms, with the frame's length as a line."""
    figure, axes = _figure(path)
    axes.hist(milliseconds, bins=min(100, max(10, milliseconds.size // 5)))
    axes.axvline(deadline, color="tab:red", label=f"frame length {deadline:.3g} ms")
    axes.set(title=title, xlabel="latency in ms", ylabel="frames")
    axes.legend()
    figure.savefig(path, dpi=120)


def _figure(path: str) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FoundryError(
            f"{path}: plots need matplotlib, which is not installed: pip install 'foundry[otfs]'"
        ) from error
    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
