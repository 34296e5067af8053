"""`foundryc capture SCRIPT.py`: an ordinary script as a workload, recorded where it has marks."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

from foundryc import marks
from foundryrt.console import note
from foundryrt.errors import FoundryError, UsageError
from foundryrt.progress import clear_bar
from foundryrt.workload import FILE_PREFIX

if TYPE_CHECKING:
    import torch

    from foundryc.module import WeightPath
    from foundryc.recorder import Recorder
    from foundryc.recording import GraphRecording

WORKLOAD = "script"
_OWN = (__file__, contextlib.__file__)
_Named = dict[tuple[str, str], str]
"""Of a block, dtype and shape of each tensor that it names, by role and name."""


@dataclass(frozen=True)
class ScriptSettings:
    """What the bundle of a script states."""

    script: str
    """Its file name without `.py`."""


class Script:
    """A script and its own arguments, as a workload that `foundryc capture` can record."""

    Settings = ScriptSettings

    def __init__(self, path: Path, arguments: Sequence[str], module: str | None = None) -> None:
        """The file `path`; with `module`, what `python -m` runs under that name."""
        self._label = f"-m {module}" if module else str(path)
        self._path = path
        self._module = module
        self._arguments = arguments
        name = module or path.stem
        self.settings = ScriptSettings(name)
        self.__name__ = FILE_PREFIX + name
        self.__file__ = str(path)
        self._main: types.ModuleType | None = None

    @classmethod
    def named_by(cls, words: Sequence[str]) -> Script | None:
        """The script, or `-m` and module, that a command's words begin with.

        None where they begin with another option. UsageError where the script is not there.
        """
        if words[:1] == ["-m"]:
            return cls._of_module(words[1:])
        if not words or words[0].startswith("-"):
            return None
        path = Path(words[0])
        if not path.is_file():
            what = "is no regular file" if path.exists() else "no such file"
            raise UsageError(
                f"{path}: {what}; give a script, or options of a workload, which begin with --"
            )
        return cls(path, words[1:])

    @classmethod
    def _of_module(cls, words: Sequence[str]) -> Script:
        if not words:
            raise UsageError("-m: name a module, such as package.module")
        name = words[0]
        # Packages are imported when the script runs: they may use the GPU.
        with _first_on_path(os.getcwd()), suppress(ImportError, ValueError):
            if (spec := importlib.util.find_spec(name.partition(".")[0])) is not None:
                return cls(Path(spec.origin or name), words[1:], name)
        raise UsageError(f"-m {name}: there is no such module, here or installed")

    def record(self, recorder: Recorder, settings: ScriptSettings) -> None:
        """Run the script as `python SCRIPT.py` does, and record what it marks.

        What it and its children print goes to stderr. A child that it forks ends with it.
        FoundryError where it fails or exits with a status other than 0, UsageError where it marks
        nothing.
        """
        clear_bar()
        recording = _Recording(recorder)
        with recording.active(), recorder.program(), _stdout_to_stderr():
            self._run()
        if not recording.graphs:
            raise UsageError(
                f"{self._label}: recorded nothing; mark what to keep by"
                " `with foundryc.record(NAME):`"
            )

    def _run(self) -> None:
        try:
            with _as_main(self._label, self._path, self._arguments, self._module) as (module, code):
                # What its graphs call, such as a compiled kernel's module, is needed until the
                # bundle is written.
                self._main = module
                with _parent_only(), _located(code.co_filename):
                    exec(code, module.__dict__)
        except (FoundryError, KeyboardInterrupt):
            raise
        except SystemExit as end:
            if end.code is not None and end.code != 0:
                raise FoundryError(
                    f"{self._label}: exited with {end.code}; no bundle is written"
                ) from end
        except BaseException as error:  # such as asyncio's CancelledError
            note(_shown(error))
            kind = type(error).__name__
            raise FoundryError(
                f"{self._label}: failed with {kind}; no bundle is written"
            ) from error


@contextmanager
def _located(file: str) -> Iterator[None]:
    """Have a UsageError say from which line of the script, `file`, it came."""
    try:
        yield
    except UsageError as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        error.at(f"{file}:{lines[-1]}" if lines else file)
        raise


def _shown(error: BaseException) -> str:
    """As Python shows it, without the frames of the command."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename in _OWN:
        trace = trace.tb_next
    return "".join(traceback.format_exception(error.with_traceback(trace))).rstrip()


@contextmanager
def _parent_only() -> Iterator[None]:
    """End a child that the block has forked: what the command still has to do is its parent's."""
    own = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != own:
            _end_child(error)
        raise
    if os.getpid() != own:
        _end_child(SystemExit())


def _end_child(error: BaseException) -> None:
    status = 1
    if not isinstance(error, SystemExit):
        note(_shown(error))
    elif error.code is None or isinstance(error.code, int):
        status = error.code or 0
    else:
        note(error.code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)


class _Block:
    """The graph of a block that is recorded, and what it names."""

    def __init__(self, graph: GraphRecording) -> None:
        self._graph = graph
        self.named: _Named = {}

    def input(self, name: str, tensor: torch.Tensor) -> None:
        self._graph.input(name, tensor)
        self.named["input", name] = _form(tensor)

    def output(self, name: str, tensor: torch.Tensor) -> None:
        self._graph.output(name, tensor)
        self.named["output", name] = _form(tensor)


class _Again:
    """A block that runs under a name and key that are recorded: it must be the same."""

    def __init__(self, name: str, key: dict[str, int | str], known: _Named) -> None:
        self._label = ", ".join([repr(name), *(f"{part}={value!r}" for part, value in key.items())])
        self._known = known

    def input(self, name: str, tensor: torch.Tensor) -> None:
        self._compare("input", name, tensor)

    def output(self, name: str, tensor: torch.Tensor) -> None:
        self._compare("output", name, tensor)

    def _compare(self, role: str, name: str, tensor: torch.Tensor) -> None:
        known, now = self._known.get((role, name), "none"), _form(tensor)
        if now != known:
            raise UsageError(
                f"record({self._label}) runs again, with {role} {name!r} {now}, where the graph "
                f"that was recorded has {known}: tell blocks that differ apart by a key, such as "
                "batch=8"
            )


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class _Recording:
    """The marks of a script that is being captured."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.graphs: dict[tuple[str, tuple[tuple[str, int | str], ...]], _Named] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        marks.active = self
        try:
            yield
        finally:
            marks.active = None

    def record(
        self, name: str, key: dict[str, int | str]
    ) -> AbstractContextManager[GraphRecording]:
        known = self.graphs.get((name, tuple(sorted(key.items()))))
        return self._record(name, key) if known is None else nullcontext(_Again(name, key, known))

    @contextmanager
    def _record(self, name: str, key: dict[str, int | str]) -> Iterator[GraphRecording]:
        with self._recorder.graph(name, **key) as graph:
            clear_bar()
            block = _Block(graph)
            yield block
        self.graphs[name, tuple(sorted(key.items()))] = block.named

    def keep(
        self,
        name: str,
        value: torch.Tensor | torch.nn.Module,
        files: Iterable[WeightPath] | None,
    ) -> None:
        import torch

        if isinstance(value, torch.nn.Module):
            self._recorder.module(value, f"{name}.", files)
        elif isinstance(value, torch.Tensor):
            if files is not None:
                raise UsageError(f"{name}: only a module's tensors are found in files")
            self._recorder.keep(name, value)
        else:
            raise UsageError(f"{name}: is a {type(value).__name__}; keep tensors and modules")


@contextmanager
def _as_main(
    label: str, path: Path, arguments: Sequence[str], name: str | None
) -> Iterator[tuple[types.ModuleType, types.CodeType]]:
    """A `__main__` for the script, and its code, with `sys.argv` and `sys.path` as it would find
    them; they and the current folder are afterwards what they were before."""
    before = sys.modules["__main__"], sys.argv
    module = types.ModuleType("__main__")
    folder = os.getcwd() if name else str(path.resolve().parent)
    with _first_on_path(folder), _same_folder():
        try:
            sys.argv = [str(path), *arguments]
            if name is None:
                file, loaded = os.path.abspath(path), None
                # Kernels may keep the name of the file that they were compiled from.
                code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
            else:
                loaded, code = _module_code(label, name)
                file = sys.argv[0] = loaded.origin or name
                module.__package__ = loaded.parent
                module.__loader__ = loaded.loader
            module.__dict__.update(__file__=file, __spec__=loaded, __builtins__=__builtins__)
            sys.modules["__main__"] = module
            yield module, code
        finally:
            sys.modules["__main__"], sys.argv = before


def _module_code(label: str, name: str) -> tuple[ModuleSpec, types.CodeType]:
    """What `python -m name` runs; UsageError where that is nothing."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        if not f"{name}.__main__".startswith(str(error.name)):
            raise  # by the package's own code
        spec = None
    loader = spec.loader if spec else None
    code = loader.get_code(spec.name) if spec and isinstance(loader, InspectLoader) else None
    if spec is None or code is None:
        raise UsageError(f"{label}: there is no such module that can be run")
    return spec, code


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    before = sys.path[:]
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _same_folder() -> Iterator[None]:
    """Return to the current folder, which relative paths of the command's options are in."""
    here = os.getcwd()
    try:
        yield
    finally:
        try:
            os.chdir(here)
        except OSError as error:
            raise FoundryError(
                f"{here}: the script has removed the folder that it was run in: {error.strerror}"
            ) from error


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Have what is printed go to stderr, by child processes and libraries in C, too."""
    libc, kept = ctypes.CDLL(None), None
    with suppress(OSError):  # one of them is closed
        kept = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr or open(os.devnull, "w")):
            yield
    finally:
        libc.fflush(None)
        if kept is not None:
            try:
                os.dup2(kept, 1)
                os.close(kept)
            except OSError as error:
                raise FoundryError(
                    "the script has closed files that it did not open, the command's output among"
                    f" them: {error.strerror}"
                ) from error
