"""Test files side by side, a pytest for each; afterwards, alone, the tests marked `alone`.

    python tests/gpu/suite.py [--workers N] [--seconds S] [FILE ...]

A file that hangs, crashes or fails costs no other file its result. Logs, JUnit files, what the
tests' scripts printed as JSON and summary.json go to build/test-gpu; as test-gpu.tgz to $OUT, too,
where that is set. Exit status 0: something passed and nothing went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPORTS = HERE.parents[1] / "build" / "test-gpu"
# What takes longest begins first.
LONGEST = (
    "test_ranks_models.py", "test_foreign.py", "test_hf.py", "test_commands.py",
    "test_examples.py", "test_ranks.py", "test_otfs_front.py", "test_parse_fp8.py",
    "test_parse_room.py", "test_parse.py",
)  # fmt: skip
TEST_SECONDS, FILE_SECONDS, GRACE = 240, 330, 10


@dataclass(frozen=True)
class Outcome:
    """How a pytest went; `trouble` says what went wrong beside failed tests."""

    name: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    trouble: str
    reason: str
    """Of the first skipped test."""

    @property
    def good(self) -> bool:
        return not self.failed and not self.trouble


class Run:
    """A pytest in a process group of its own."""

    def __init__(self, name: str, arguments: Iterable[str], folder: Path, until: float) -> None:
        self.name, self._began = name, time.monotonic()
        self._until = min(until, self._began + FILE_SECONDS)
        self._stopped = False
        self._junit = folder / f"{name}.xml"
        command = [
            sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider",
            f"--timeout={TEST_SECONDS}", f"--junitxml={self._junit}", *arguments,
        ]  # fmt: skip
        threads = os.environ.get("OMP_NUM_THREADS", "2")
        with open(folder / f"{name}.log", "wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"OUT": str(folder), "OMP_NUM_THREADS": threads},
            )  # fmt: skip

    def over(self) -> bool:
        """Whether it has ended; one whose time is up is ended."""
        late = time.monotonic() - self._until
        if self._process.poll() is None and late >= 0:
            if not self._stopped:
                # Interrupted, pytest still reports what it has done.
                self._signal(signal.SIGINT)
                self._stopped = True
            elif late >= GRACE:
                self.kill()
                return True
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it and what it started; a process that hangs in the driver is not waited for."""
        self._signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def outcome(self) -> Outcome:
        """Of one that has ended; what its tests left running is ended."""
        self._signal(signal.SIGKILL)
        code, seconds = self._process.returncode, time.monotonic() - self._began
        trouble = "" if code in (0, 1, 5) else f"pytest's exit status {code}"
        if self._stopped:
            trouble = "stopped: out of time"
        counts, reason = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0), ""
        try:
            suite = ET.parse(self._junit).getroot()[0]
            counts = {name: int(suite.get(name, 0)) for name in counts}
            skipped = suite.find(".//skipped")
            reason = "" if skipped is None else skipped.get("message", "")
        except (OSError, ET.ParseError):
            trouble = trouble or "no report"
        failed = counts["failures"] + counts["errors"]
        passed = max(0, counts["tests"] - failed - counts["skipped"])
        return Outcome(
            self.name, passed, failed, counts["skipped"], round(seconds, 1), trouble, reason
        )


def run(waiting: deque[tuple[str, list[str]]], workers: int, until: float) -> list[Outcome]:
    """Outcomes of (name, arguments) in the order in which they end."""
    running: list[Run] = []
    outcomes = []
    try:
        while running or waiting:
            while waiting and len(running) < workers and time.monotonic() < until:
                running.append(Run(*waiting.popleft(), REPORTS, until))
            if not running:
                outcomes += [Outcome(name, 0, 0, 0, 0.0, "not begun", "") for name, _ in waiting]
                break
            for one in [one for one in running if one.over()]:
                running.remove(one)
                outcomes.append(one.outcome())
                print(line(outcomes[-1]), file=sys.stderr, flush=True)
            time.sleep(0.1)
    finally:
        for one in running:
            one.kill()
    return outcomes


def line(o: Outcome) -> str:
    """A row of the table."""
    counts = f"{o.passed:6} {o.failed:6} {o.skipped:7} {o.seconds:7.1f} s"
    return f"{o.name:28} {counts}  {o.trouble or ('failed' if o.failed else '')}".rstrip()


def report(outcomes: list[Outcome]) -> bool:
    """Print the ends of the logs of what went wrong, then the table; whether all is well."""
    for outcome in outcomes:
        log = REPORTS / f"{outcome.name}.log"
        if not outcome.good and log.exists():
            tail = log.read_text(errors="replace").splitlines()[-30:]
            print(f"\n==== {outcome.name}: the end of {log}", *tail, sep="\n")
    print(f"\n{'':28} {'passed':>6} {'failed':>6} {'skipped':>7} {'time':>9}")
    print(*map(line, outcomes), sep="\n")
    (REPORTS / "summary.json").write_text(
        json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n"
    )
    passed = sum(outcome.passed for outcome in outcomes)
    bad = [outcome.name for outcome in outcomes if not outcome.good]
    print(f"{passed} tests passed; in trouble: {', '.join(bad) or 'none'}")
    if not passed:
        print(f"nothing was tested: {next((o.reason for o in outcomes if o.reason), 'no tests')}")
    return bool(passed) and not bad


def main() -> int:
    """Run, report, pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="all of tests/gpu by default")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=500, help="that all may take together")
    options = parser.parse_args()
    # Terminated, it ends its tests as it does when interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    until = time.monotonic() + options.seconds
    files = options.files or sorted(
        HERE.glob("test_*.py"),
        key=lambda file: LONGEST.index(file.name) if file.name in LONGEST else len(LONGEST),
    )
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    beside = deque((file.stem, ["-m", "not alone", str(file)]) for file in files)
    collecting = ["--continue-on-collection-errors", "-m", "alone"]
    alone = deque([("alone", [*collecting, *map(str, files)])])
    outcomes = [
        # A file whose tests are all left out by options or marks is no row.
        outcome
        for outcome in run(beside, options.workers, until) + run(alone, 1, until)
        if outcome.passed or outcome.skipped or not outcome.good
    ]
    fine = report(outcomes)
    if out := os.environ.get("OUT"):
        with tarfile.open(Path(out, "test-gpu.tgz"), "w:gz") as archive:
            archive.add(REPORTS, "test-gpu")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
