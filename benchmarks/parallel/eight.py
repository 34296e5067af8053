"""Qwen3-235B-A22B over the eight GPUs of a host: start, decoding, PARSE, and a rank that is killed.

Bundles are captured on one GPU each, without weight files; weights are random, made on the devices.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from typer import BadParameter, Option

from benchmarks.device import check_gpus, gpu
from benchmarks.parallel.run import STEPS, bare, side_by_side, step
from benchmarks.report import RESULTS, Output, Report, chosen, say, today
from benchmarks.serving.serve import Alarm, OutOfTime
from benchmarks.start.cold import kill_family, search_path

PARTS = ("start", "decode", "killed", "parse")
KINDS = ("bf16", "fp8")
ACCEPTANCE, BATCH = 0.75, 8
"""Of PARSE's gain that is set beside its target."""
LIMITS = {"capture": 270.0, "start": 60.0, "decode": 120.0, "killed": 60.0, "parse": 150.0}
"""Seconds of a step."""
RANDOM = "random, made on the devices"
Save = Callable[[dict[str, Any]], None]


def run(
    parts: Annotated[str, Option(help=f"Of {', '.join(PARTS)}.")] = ",".join(PARTS),
    kinds: Annotated[
        str, Option(help="Weights of start and decode; killed has the first.")
    ] = ",".join(KINDS),
    repeats: Annotated[int, Option(help="Starts, of which medians are taken.", min=1)] = 3,
    limit: Annotated[float, Option(help="Seconds for all.")] = 580,
    tiny: Annotated[bool, Option("--tiny", help="A toy model, two ranks on the CPU.")] = False,
    output: Output = RESULTS / "tp8.json",
) -> None:
    """Measure the ranks together; on eight H200s some 300 s are expected, 100 of them captures.

    Written as figures come; others are kept. A part that fails keeps no other one from being
    measured; the benchmark then ends with 1.
    """
    wanted, weights = chosen(parts, PARTS, "--parts"), chosen(kinds, KINDS, "--kinds")
    if tiny and output.resolve().parent == RESULTS:
        raise BadParameter("figures of toy models mean nothing: give --output", param_hint="--tiny")
    world = 2 if tiny else 8
    if not tiny:
        check_gpus(range(world))
    about = {
        "date": today(), "device": "CPU" if tiny else gpu(), "ranks": world,
        "driver": None if tiny else gpu("driver_version"),
        "torch": importlib.metadata.version("torch"),
    }  # fmt: skip
    save = Report(output, about).save
    measure = {"start": _start, "decode": _decode, "killed": _killed, "parse": _parse}
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), ",".join(map(str, range(world))), world, tiny, repeats)
        bundles = {"start": weights, "decode": weights, "killed": weights[:1], "parse": ["pair"]}
        measured = [(part, kind) for part in wanted for kind in bundles[part]]
        failed = False
        try:
            with Alarm(limit):
                captures = list(dict.fromkeys(kind for _, kind in measured))
                calls = [partial(_capture, place, n, kind) for n, kind in enumerate(captures)]
                for kind, found in zip(captures, side_by_side(calls), strict=True):
                    if found:
                        save(f"capture_{kind}", found)
                for part, kind in measured:
                    try:
                        measure[part](place, kind, partial(save, f"{part}_{kind}"))
                    except (SystemExit, subprocess.SubprocessError) as error:
                        if error.args == (143,):
                            raise  # by SIGTERM
                        say(f"{part} {kind}: {error}")
                        failed = True
        except OutOfTime as error:
            raise SystemExit(str(error)) from None
    if failed:
        raise SystemExit(1)


@dataclass(frozen=True)
class Place:
    """Where bundles lie, and what runs them."""

    folder: Path
    gpus: str
    world: int
    tiny: bool
    repeats: int

    def bundle(self, kind: str) -> Path:
        """SystemExit where it could not be captured."""
        path = self.folder / f"{kind}.fdy"
        if not path.exists():
            raise SystemExit("there is no bundle: its capture failed")
        return path


def _capture(place: Place, number: int, kind: str) -> dict[str, Any]:
    """Makes a bundle on a GPU of its own. Empty where that fails: the others go on."""
    path = place.folder / f"{kind}.fdy"
    own, tiny = ("", "tiny") if place.tiny else (str(number), "")
    try:
        found: dict[str, Any] = step(
            "eight_capture.py", kind, place.world, path, tiny, visible=own, limit=LIMITS["capture"]
        )
    except SystemExit as error:
        path.unlink(missing_ok=True)
        say(f"capture {kind}: {error}")
        return {}
    return found


def _start(place: Place, kind: str, save: Save) -> None:
    """Milliseconds until all ranks have made the first token, beside bare processes."""
    path = place.bundle(kind)
    runs = [step("decode_time.py", path, place.gpus, limit=LIMITS["start"])
            for _ in range(place.repeats)]  # fmt: skip
    found: dict[str, Any] = {"weights": "zeros, made on the devices"}
    for key in ("first_token_ms", "all_ready_ms"):
        found[key] = median(one[key] for one in runs)
    save(found)
    if not place.tiny:  # there is no driver to start
        gpus = place.gpus.split(",")
        found["bare_ms"] = median(bare(place.folder, gpus, False) for _ in range(place.repeats))
        save(found | {"first_token_ratio": found["first_token_ms"] / found["bare_ms"]})


def _decode(place: Place, kind: str, save: Save) -> None:
    """Seconds of a step and tokens a second, by batch."""
    found: dict[str, Any] = {"weights": RANDOM}
    for row in _rows(place, kind, LIMITS["decode"]):
        found |= {f"batch_{row['batch']}": row} if "batch" in row else row
        save(found)


def _killed(place: Place, kind: str, save: Save) -> None:
    """Seconds until all ranks have ended, one of which is killed."""
    gpus = "" if place.tiny else place.gpus
    save(step("killed.py", place.bundle(kind), place.world, gpus, limit=LIMITS["killed"]))


def _parse(place: Place, kind: str, save: Save) -> None:
    """Gains of PARSE over the target alone, by batch and given acceptance."""
    found: dict[str, Any] = {"weights": RANDOM, "rows": []}
    for row in _rows(place, kind, LIMITS["parse"]):
        if "batch" not in row:
            found |= row
            continue
        found["rows"].append(row)
        if (row["acceptance"], row["batch"]) == (ACCEPTANCE, BATCH):
            found["gain"] = row["gain"]
        save(found)


def _rows(place: Place, kind: str, limit: float) -> Iterator[dict[str, Any]]:
    """What eight_run.py says line by line, so that a step that fails loses no figure."""
    say(f"eight_run.py {kind}")
    running = subprocess.Popen(
        [sys.executable, STEPS / "eight_run.py", place.bundle(kind), place.gpus],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": search_path()},
    )  # fmt: skip
    assert running.stdout is not None
    late = threading.Timer(limit, kill_family, [running.pid])
    late.start()
    try:
        for line in running.stdout:
            say(line.rstrip())
            yield json.loads(line)
    except BaseException:
        kill_family(running.pid)
        raise
    finally:
        status = running.wait()
        late.cancel()
    if status:
        raise SystemExit(f"exit status {status}, or not done in {limit:.0f} s")
