"""A receiver's run with its live page, as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = "import sys; from foundryrt.cli import main; sys.argv[0] = 'foundryrt'; main()"


class LiveRun:
    """`foundryrt run BUNDLE --live`; `url` is the page's."""

    def __init__(self, bundle: Path, *options: object) -> None:
        words = ["run", str(bundle), "--json", "--live", *map(str, options)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        found = re.search(r"live: (http://127\.0\.0\.1:\d+/)", said)
        assert found is not None, said
        self.url = found[1]

    def interrupt(self) -> dict:
        """Ctrl-C; the report."""
        self._process.send_signal(signal.SIGINT)
        return self.report()

    def report(self) -> dict:
        """What the run printed at its end."""
        out, err = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, err
        assert err == ""
        return json.loads(out)

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
