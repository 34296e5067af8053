"""`foundryc capture SCRIPT.py`: an ordinary script as a workload, recorded where it has marks."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
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

    def __init__(self, path: Path, arguments: Sequence[str]) -> None:
        self._path = path
        self._arguments = arguments
        self.settings = ScriptSettings(path.stem)
        self.__name__ = FILE_PREFIX + path.stem
        self._main: types.ModuleType | None = None

    @classmethod
    def named_by(cls, words: Sequence[str]) -> Script | None:
        """The script that a command's words begin with; None where they begin with an option.

        UsageError where the file is not there.
        """
        if not words or words[0].startswith("-"):
            return None
        if not Path(words[0]).is_file():
            raise UsageError(
                f"{words[0]}: no such file; give a script, or options of a workload, which begin"
                " with --"
            )
        return cls(Path(words[0]), words[1:])

    def record(self, recorder: Recorder, settings: ScriptSettings) -> None:
        """Run the script as `python SCRIPT.py` does, and record what it marks.

        What it prints goes to stderr. FoundryError where it fails or exits with a status other
        than 0, UsageError where it marks nothing.
        """
        clear_bar()
        recording = _Recording(recorder)
        with recording.active(), recorder.program(), redirect_stdout(sys.stderr):
            self._run()
        if not recording.graphs:
            raise UsageError(
                f"{self._path}: recorded nothing; mark what to keep by"
                " `with foundryc.record(NAME):`"
            )

    def _run(self) -> None:
        try:
            code = compile(self._path.read_bytes(), str(self._path), "exec", dont_inherit=True)
            with _as_main(self._path, self._arguments) as module:
                # What its graphs call, such as a compiled kernel's module, is needed until the
                # bundle is written.
                self._main = module
                exec(code, module.__dict__)
        except FoundryError:
            raise
        except SystemExit as end:
            if end.code is not None and end.code != 0:
                raise FoundryError(
                    f"{self._path}: exited with {end.code}; no bundle is written"
                ) from end
        except Exception as error:
            # As Python shows it, without the frames of the command.
            trace = error.__traceback__.tb_next if error.__traceback__ else None
            note("".join(traceback.format_exception(error.with_traceback(trace))).rstrip())
            kind = type(error).__name__
            raise FoundryError(f"{self._path}: failed with {kind}; no bundle is written") from error


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
            self._recorder.keep(name, value)
        else:
            raise UsageError(f"{name}: is a {type(value).__name__}; keep tensors and modules")


@contextmanager
def _as_main(path: Path, arguments: Sequence[str]) -> Iterator[types.ModuleType]:
    """A `__main__` for the script, with `sys.argv` and `sys.path` as it would find them."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=str(path), __builtins__=__builtins__)
    before = sys.modules["__main__"], sys.argv, sys.path[:]
    sys.modules["__main__"] = module
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield module
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = before
