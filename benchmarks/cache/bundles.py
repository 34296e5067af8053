"""Times of the bundle cache: a warm hit against `cp`, keys per second, captures of 32 processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, today, write_results
from foundryc.cache.entry import admit, seal
from foundryc.cache.flight import obtain
from foundryc.cache.key import key_of
from foundryc.cache.request import Request
from foundryc.cache.stores.local import LocalStore
from foundryrt.bundle.schema import SectionKind
from foundryrt.bundle.writer import BundleWriter
from tests.attacks.samples import parts as sample
from tests.unit.cache_samples import parts_of

GIGABYTE = 10**9
ROUNDS = 7


def big_bundle(path: Path) -> str:
    """One section of 1 GB that does not compress, as embedded weights are; its key."""
    contents = sample()
    with BundleWriter(path) as writer:
        for kind, name, raw, _ in contents.sections:
            if name == "weights":
                block = os.urandom(10**7)
                writer.add(SectionKind(kind), name, [block] * (GIGABYTE // 10**7), compress=False)
            else:
                writer.add(SectionKind(kind), name, raw)
        manifest = contents.manifest
        first = msgspec.structs.replace(manifest.regions[0], base=0x500000000000, size=GIGABYTE)
        regions = (first, *manifest.regions[1:])
        needs = msgspec.structs.replace(manifest.requirements, memory=2 * GIGABYTE)
        writer.finish(msgspec.structs.replace(manifest, regions=regions, requirements=needs))
    return seal(path, parts_of(0))


def hit_against_cp(folder: Path) -> dict[str, object]:
    """Medians in seconds, taken in turn; both write a new file from a warm page cache."""
    store, out = LocalStore(folder / "cache"), folder / "out.fdy"
    key = big_bundle(folder / "big.fdy")
    store.put(key, folder / "big.fdy")
    (folder / "big.fdy").unlink()
    entry = store.folder / f"{key}.fdy"
    times: dict[str, list[float]] = {"cp": [], "hit": [], "verify": []}
    for count in range(ROUNDS + 1):
        for what, run in (
            ("cp", lambda: subprocess.run(["cp", entry, out], check=True)),
            ("hit", lambda: obtain(store, key, out, never, print)),
            ("verify", lambda: admit(entry, key)),
        ):
            if what != "verify":
                out.unlink(missing_ok=True)
                os.sync()
            began = time.perf_counter()
            run()
            # The first round warms the page cache.
            if count:
                times[what].append(time.perf_counter() - began)
    medians = {f"{what}_seconds": statistics.median(values) for what, values in times.items()}
    ratio = medians["hit_seconds"] / medians["cp_seconds"]
    return {"bytes": entry.stat().st_size, **medians, "ratio": ratio, "all_seconds": times}


def never(path: Path) -> None:
    """A hit captures nothing."""
    raise AssertionError(path)


def keys_per_second(name: str, *options: str) -> dict[str, float]:
    """In one process: the first key, which reads the files, and the rate of those after it."""
    began = time.perf_counter()
    request = Request.read(name, "host", False, options)
    key_of(request.parts())
    first = time.perf_counter() - began
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 2:
        key_of(Request.read(name, "host", False, options).parts())
        count += 1
    return {"first_seconds": first, "keys_per_second": count / (time.perf_counter() - began)}


def captures(folder: Path, processes: int = 32) -> dict[str, object]:
    """How many of `processes` that start at once capture; a capture takes half a second."""
    worker = Path(__file__).parents[2] / "tests" / "unit" / "cache_worker.py"
    log = folder / "log"
    began = time.perf_counter()
    running = [
        subprocess.Popen(
            [sys.executable, worker, folder / "flight", folder / f"{i}.fdy", log, "0.5"],
            stdout=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    outcomes = [process.communicate()[0].strip() for process in running]
    return {
        "processes": processes,
        "captures": len(log.read_text().splitlines()),
        "hits": outcomes.count("hit"),
        "seconds": time.perf_counter() - began,
    }


def run(output: Output = RESULTS / "cache.json") -> None:
    """Measure the bundle cache."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        result = {
            "date": today(),
            "device": cpu(),
            "warm_hit": hit_against_cp(folder),
            "keys": {
                "otfs": keys_per_second("otfs"),
                "parse smollm2": keys_per_second("parse", "--model", "smollm2"),
            },
            "single_flight": captures(folder),
        }
    print(json.dumps(result, indent=1))
    write_results(output, result)
