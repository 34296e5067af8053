"""Whether code that a model wrote passes tests: in a process that can touch nothing.

The process is an interpreter without packages, under limits of time, memory and file size. An
audit hook, which code cannot take away again, lets it import, compile and read, and refuses all
else that Python reports: writing and removing files, processes, sockets, foreign functions.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile

SECONDS = 5
_DONE = 77
"""The exit status behind the tests; code that ends the process by itself has another."""
_MEMORY = 1 << 30
_GUARD = """
import os, sys
def refuse(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) <= set("rbt"):
        return
    if event not in {"import", "compile", "exec", "marshal.loads", "os.listdir", "os.scandir",
                     "sys._getframe", "sys._getframemodulename", "object.__getattr__",
                     "object.__setattr__", "builtins.id", "code.__new__", "array.__new__"}:
        raise PermissionError(f"not here: {event}")
text = sys.stdin.read()
sys.addaudithook(refuse)
exec(compile(text, "answer", "exec"), {"__name__": "answer"})
os._exit(77)
"""


def passes(code: str, tests: str) -> bool:
    """Whether the code and then the tests run to their end, within `SECONDS`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _GUARD], input=f"{code}\n{tests}\n",
                text=True, cwd=folder, env={}, timeout=2 * SECONDS, preexec_fn=_limit,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == _DONE


def _limit() -> None:
    for kind, most in (
        (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        resource.setrlimit(kind, (most, most))
