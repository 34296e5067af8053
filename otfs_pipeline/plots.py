"""PNG plots of a run; matplotlib is imported only when one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundryrt.atomic import AtomicFile
from foundryrt.errors import FoundryError, install

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def constellation(path: str, symbols: np.ndarray, title: str) -> None:
    """Scatter of unbiased symbols [S] complex."""
    figure, axes = new_figure(path)
    axes.plot(symbols.real, symbols.imag, ".", markersize=1, alpha=0.3)
    axes.set(title=title, xlabel="in phase", ylabel="quadrature", aspect="equal")
    save(figure, path)


def latency(path: str, milliseconds: np.ndarray, deadline: float, title: str) -> None:
    """Histogram of latencies [F] in ms, with the frame's length as a line."""
    figure, axes = new_figure(path)
    axes.hist(milliseconds, bins=min(100, max(10, milliseconds.size // 5)), log=True)
    axes.axvline(deadline, color="tab:red", label=f"frame length {deadline:.3g} ms")
    axes.set(title=title, xlabel="latency in ms", ylabel="frames")
    axes.legend()
    save(figure, path)


def new_figure(
    path: str, columns: int = 1, size: tuple[float, float] = (6, 5)
) -> tuple[Figure, Any]:
    """A figure for the file `path`, and its axes; FoundryError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FoundryError(
            f"{path}: plots need matplotlib, which is not installed: {install('otfs')}"
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def save(figure: Figure, path: str) -> None:
    """Write the figure in the format of the name's suffix, atomically."""
    try:
        with AtomicFile(Path(path)) as out:
            figure.savefig(out.file, dpi=120, format=Path(path).suffix[1:] or "png")
            out.commit()
    except OSError as error:
        raise FoundryError(f"plot {path}: {error.strerror}") from error
