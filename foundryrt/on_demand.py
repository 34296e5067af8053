"""`--model NAME` in place of a bundle: from a cache, or captured by `foundryc` in another process.

`foundryc` computes the bundle's key, and of several starts one captures while the others wait. This
process imports neither `foundryc` nor torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from foundryrt import options
from foundryrt.console import note
from foundryrt.errors import FoundryError, UsageError, install
from foundryrt.remote.local import user_folder
from foundryrt.workload import RUN, RunWorkload, ServingWorkload, WithCapture, find_run, names

_HERE = ("weights", "trust", "json", "devices")
"""Options of `run` and `serve` themselves."""
_COMMANDS = {
    "run": (*_HERE, "base", "standby"),
    "serve": ("weights", "trust", "devices", "base", "standby"),
}
"""All options of each that are not the workload's; `tp` is the capture's, too."""
_BOTH = ("tp",)
"""Options of the capture, and of `run` and `serve`."""
_CAPTURE = ("target", "cache", "compile")
"""Options of `foundryc capture` itself."""


def asked(words: Sequence[str]) -> bool:
    """Whether the arguments of a command name a model to be run, and do not ask for help."""
    return "model" in (named := options.named(words)) and "help" not in named


def with_bundle(command: str, words: Sequence[str]) -> list[str]:
    """The arguments of `run` or `serve` with the model's bundle in place of what names it.

    UsageError for a workload that has no models, FoundryError where the capture cannot be done.
    """
    chosen, words = options.split(words, ("workload",))
    name, driver = _driver(chosen)
    own = driver.Options
    if command == "serve":
        if not isinstance(driver, ServingWorkload):
            raise UsageError(f"workload {name!r} has no server; use foundryrt run")
        own = driver.Serving
    # An option of both is what this run has: the capture keeps its default.
    taken = (options.names(driver.Capture) | set(_CAPTURE)) - options.names(own) - set(_HERE)
    capture, rest = options.split(words, taken)
    both, _ = options.split(capture, _BOTH)
    # A capture takes minutes: what will be refused after it is refused before.
    options.parse(own, options.split(rest, _COMMANDS[command])[1])
    return [str(obtained(name, capture)), *rest, *both]


def _driver(chosen: Sequence[str]) -> tuple[str, WithCapture]:
    """The named workload, or the installed one that has models."""
    found, missing = [], []
    for name in [chosen[-1].partition("=")[2] or chosen[-1]] if chosen else names(RUN):
        try:
            driver: RunWorkload = find_run(name, name)
        except FoundryError as error:
            if chosen:
                raise
            missing.append(str(error))  # another one may be the one that has models
            continue
        if isinstance(driver, WithCapture) and "model" in options.names(driver.Capture):
            found.append((name, driver))
    if len(found) == 1:
        return found[0]
    if chosen:
        raise UsageError(
            f"--model: workload {name!r} takes a bundle alone: have it captured first, "
            f"foundryc capture --workload {name} --model NAME -o BUNDLE.fdy"
        )
    if missing:
        raise FoundryError(f"--model: {'; '.join(missing)}")
    raise UsageError("--model: name a workload that has models by --workload")


def obtained(name: str, arguments: Sequence[str]) -> Path:
    """The bundle that `foundryc capture` makes of these arguments of workload `name`.

    It lies in the user's cache folder, one file for each list of arguments and working folder.
    Where torch is missing, nothing can be captured and no key be compared: the file that is there
    is taken, with a word.
    """
    folder = user_folder("models")
    # A model may be named by a path from here.
    words = json.dumps([os.getcwd(), name, *arguments])
    digest = hashlib.sha256(words.encode(errors="surrogateescape")).hexdigest()[:24]
    bundle = folder / f"{digest}.fdy"
    for package, extra in (("foundryc", "capture"), ("torch", "capture")):
        if importlib.util.find_spec(package) is None:
            if not bundle.exists():
                raise FoundryError(
                    f"--model: capturing needs {package}, which is not installed: "
                    f"{install(extra)}; or give a bundle that was captured elsewhere"
                )
            note(f"{package} is not installed: taking {bundle} without asking if it is current")
            return bundle
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoundryError(f"{folder}: {error.strerror}; XDG_CACHE_HOME moves it") from error
    command = ["capture", "--workload", name, "--fit", "--json", "--output", str(bundle)]
    if "cache" not in options.named(arguments) and not os.environ.get("FOUNDRY_CACHE"):
        command += ["--cache", str(user_folder("captures"))]
    outcome = _foundryc([*command, *arguments])
    note(f"bundle of {outcome['key'][:16]}…: {outcome['cache']}")
    return bundle


def _foundryc(arguments: Sequence[str]) -> dict[str, str]:
    """What the command says as JSON; its progress goes to this process's stderr.

    Where it fails, it has said why, and this process ends with its exit code.
    """
    program = "from foundryc.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    )
    with _ended_with(process):
        told, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    found: dict[str, str] = json.loads(told)
    return found


@contextmanager
def _ended_with(process: subprocess.Popen[str]) -> Iterator[None]:
    """End the process when this one is interrupted or told to end."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
