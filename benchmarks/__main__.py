"""`python -m benchmarks NAME [options]` runs a benchmark; `list` and `summary` need no GPU."""

from __future__ import annotations

import functools
import importlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import summary
from benchmarks.catalogue import BENCHMARKS, Benchmark


def listing() -> None:
    """List the benchmarks by name."""
    table = Table("name", "measures", "writes", "needs", box=None, pad_edge=False)
    for one in BENCHMARKS.values():
        table.add_row(one.name, one.about, one.writes, "GPU" if one.gpu else "")
    console = Console()
    # A pipe has no width of its own.
    (console if console.is_terminal else Console(width=130)).print(table)


def command(benchmark: Benchmark) -> Callable[..., Any]:
    """The benchmark's function; refuses to begin where there is no GPU and it needs one.

    Only this benchmark is imported: each needs other packages.
    """
    run = importlib.import_module(f"benchmarks.{benchmark.module}").run

    @functools.wraps(run)
    def checked(*arguments: Any, **options: Any) -> None:
        if benchmark.gpu and shutil.which("nvidia-smi") is None:
            sys.exit(f"{benchmark.name}: needs an NVIDIA GPU; there is no nvidia-smi here")
        run(*arguments, **options)

    return checked


def application(arguments: Sequence[str]) -> typer.Typer:
    """The commands `list` and `summary`, and the benchmark that the arguments name."""
    app = typer.Typer(
        help="Run the benchmark NAME (see `list`), or summarise results.", add_completion=False,
        no_args_is_help=True, pretty_exceptions_enable=False, subcommand_metavar="NAME [OPTIONS]",
    )  # fmt: skip
    app.command("list")(listing)
    app.command("summary")(summary.run)
    for benchmark in filter(None, map(BENCHMARKS.get, arguments[:1])):
        app.command(benchmark.name)(command(benchmark))
    return app


def main() -> None:
    """Run the command line."""
    application(sys.argv[1:])(prog_name="python -m benchmarks")


if __name__ == "__main__":
    main()
