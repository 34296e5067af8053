"""Workloads: found by entry point, so a package adds one without any change here, or by path.

The run side of a workload is a module as `RunWorkload` describes it; the capture side is described
in foundryc/workload.py. A module may be both.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from foundryrt.errors import FoundryError, UsageError, install
from foundryrt.parallel import Worker

if TYPE_CHECKING:
    from foundryrt.bundle.reader import Bundle
    from foundryrt.session import Session

_EXTRAS = {"torch": "capture", "safetensors": "capture", "gguf": "capture"}
"""Packages that are no workload's own; any other is in the extra of the workload's name."""


@runtime_checkable
class RunWorkload(Protocol):
    """What `foundryrt run` needs of a workload."""

    Options: type[Any]
    """A frozen dataclass; its fields are command-line options (foundryrt/options.py)."""

    def run(self, session: Session, options: Any, json: bool) -> object:
        """Drive an open bundle; with `json` print nothing, and return what `--json` shows."""


@runtime_checkable
class ServingWorkload(RunWorkload, Protocol):
    """A workload that `foundryrt serve` can serve too."""

    Serving: type[Any]
    """As `Options`, for `serve`."""

    def serve(self, session: Session, options: Any) -> None:
        """Answer requests until SIGTERM or SIGINT."""


@runtime_checkable
class PreparedWorkload(ServingWorkload, Protocol):
    """A workload whose server does part of its start while the bundle is opened."""

    def prepare_serving(self, bundle: Bundle) -> object:
        """Do what needs no session, on a thread of its own; `serve` is called afterwards.

        What it returns is kept until `serve` has ended. What it raises is dropped: `serve` meets
        the same.
        """


@runtime_checkable
class GrowingWorkload(RunWorkload, Protocol):
    """A workload with tensors that may have more rows than at capture (foundryrt/grow.py)."""

    def rows(self, bundle: Bundle, options: Any) -> Mapping[str, int]:
        """Rows of such tensors, by name, for a session with these options of `run` or `serve`."""


@runtime_checkable
class WithCapture(RunWorkload, Protocol):
    """A workload whose bundle can be named by what it is captured of."""

    Capture: type[Any]
    """The settings of its capture, as `Settings` of its other half."""


@runtime_checkable
class CalibratedWorkload(RunWorkload, Protocol):
    """A workload whose bundles `foundryc calibrate` can fit to their models."""

    Calibrating: type[Any]
    """As `Options`, for `calibrate`."""

    def calibrate(
        self, session: Session, options: Any, json: bool
    ) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The files to put into the bundle, and what `--json` shows; without it, print that."""


@contextmanager
def preparing(driver: ServingWorkload, bundle: Bundle) -> Iterator[Worker]:
    """Have a server prepared beside the block; join what is given before `serve` is called."""
    kept: list[object] = []

    def prepare(driver: PreparedWorkload) -> None:
        with suppress(Exception):
            kept.append(driver.prepare_serving(bundle))

    worker = Worker()
    try:
        if isinstance(driver, PreparedWorkload):
            worker.start(partial(prepare, driver))
        yield worker
    finally:
        worker.join()


def wanted_rows(driver: RunWorkload, bundle: Bundle, options: Any) -> Mapping[str, int]:
    """What `Session.open` is to `grow`."""
    return driver.rows(bundle, options) if isinstance(driver, GrowingWorkload) else {}


RUN = "foundryrt.workloads"
"""Entry points of run sides; those of capture sides are in foundryc/workload.py."""


FILE_PREFIX = "foundry_workload_"
"""Modules of workload files are called this and the file's name: a torch.py must not be torch."""


def find_run(bundle: str, asked: str | None = None) -> RunWorkload:
    """The run side of the workload that `bundle`, a manifest, names, or of the one `asked` for.

    A bundle names installed workloads only: it must not have files of its choice imported.
    """
    module = find(RUN, asked) if asked else installed(RUN, bundle)
    if not isinstance(module, RunWorkload):
        raise UsageError(
            f"workload {asked or bundle!r} cannot be run: it needs Options and"
            " run(session, options, json)"
        )
    return module


def names(group: str) -> list[str]:
    """Installed workloads of `foundryc.workloads` (capture) or `foundryrt.workloads` (run)."""
    return sorted({entry.name for entry in entry_points(group=group)})


def installed(group: str, name: str) -> ModuleType:
    """An installed workload's module.

    UsageError where it is not installed, FoundryError where it cannot be imported.
    """
    for entry in entry_points(group=group, name=name):
        return _imported(name, entry.load)
    known = ", ".join(names(group)) or "none"
    graphs = "; --workload script launches every graph once" if group == RUN else ""
    raise UsageError(
        f"no workload {name!r} is installed, only {known}; any other is given by its file:"
        f" --workload FILE.py{graphs}"
    )


def is_file(name: str) -> bool:
    """Whether a workload is given by its file."""
    return name.endswith(".py")


def own_file(module: object) -> list[Path]:
    """The file of a workload, which no output may replace; none where it is of no file."""
    file = getattr(module, "__file__", None)
    return [Path(file)] if file else []


def find(group: str, name: str) -> ModuleType:
    """A workload that a user named: installed, a `.py` file, or a module as `package.module`.

    UsageError where there is none, FoundryError where it cannot be imported.
    """
    if is_file(name):
        return _imported(name, lambda: _from_file(Path(name)))
    if "." not in name:
        return installed(group, name)
    # As `python -m` does: otherwise the first folder is the one that holds the command.
    _search("")
    try:
        found = importlib.util.find_spec(name) is not None
    except ImportError:
        found = False
    if not found:
        raise UsageError(f"no workload {name!r}: there is no such module, here or installed")
    return _imported(name, lambda: import_module(name))


def _imported(name: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except FoundryError:
        raise
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", name)
        remedy = f": {install(extra)}" if extra in (*_EXTRAS.values(), *names(RUN)) else ""
        raise FoundryError(
            f"workload {name!r} needs {error.name or error}, which is not installed{remedy}"
        ) from error
    except Exception as error:
        raise FoundryError(
            f"workload {name!r} cannot be imported: {type(error).__name__}: {error}{_place(error)}"
        ) from error


def _place(error: Exception) -> str:
    """Where a module failed: file and line."""
    if isinstance(error, SyntaxError):
        return ""  # it says so itself
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})" if trace else ""


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"workload {path}: no such file")
    name = FILE_PREFIX + path.stem
    known = sys.modules.get(name)
    if known is not None and known.__file__ == os.path.abspath(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"workload {path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    # As `python FILE.py` does, what lies beside it can be imported; dataclasses look themselves up.
    _search(str(path.resolve().parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _search(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
