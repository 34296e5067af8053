"""Two proved captures of the benchmarks' decoder, kept with what they were compared from.

`python tests/gpu/capture_triples.py FOLDER OUT` captures twice, says how the bundles differ and
whether a replay of the second gives torch's bytes, and leaves the words of all captures in OUT.
"""

from __future__ import annotations

import json
import os
import pickle
import runpy
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
STEPS = ROOT / "benchmarks" / "start" / "steps"
MODEL, MODE = "qwen3-0.6b", "eager"
BATCHES = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256]


def inner(script: str) -> None:
    """A step of the benchmark with fewer graphs; what is compared goes to OUT where that is set."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.start.steps import model

    model.batches = lambda name: BATCHES
    out = os.environ.get("OUT_TRIPLE")
    if script == "capture.py" and out and not os.environ.get("FOUNDRY_STORE"):
        keep(Path(out))
    runpy.run_path(str(STEPS / script), run_name="__main__")


def keep(out: Path) -> None:
    from foundryc import capture_file, relocate
    from foundryc.cuda.recording import CudaRecording

    original, rehearse = relocate.compare, CudaRecording.rehearse

    def compare(a, again, moved):
        capture_file.save(a, out.with_suffix(".capture"))
        rows = []
        for capture in (a, again, moved):
            rows.append({
                "words": [g.columns["parameters"] ^ (0 if capture is a else b.columns["parameters"])
                          for g, b in zip(capture.graphs, a.graphs, strict=True)],
                "relocations": [(g.columns["relocation_word"], g.columns["relocation_region"])
                                for g in capture.graphs],
                "bases": [r.base for r in capture.regions],
                "mapped": list(capture.mapped),
            })  # fmt: skip
        import zstandard

        data = zstandard.ZstdCompressor(level=6, threads=-1).compress(pickle.dumps(rows))
        out.with_suffix(".words").write_bytes(data)
        return original(a, again, moved)

    def counted(self, capture):
        made = rehearse(self, capture)
        total = sum(len(graph.outputs) for graph in self.graphs)
        kept = sum(map(len, made.digests))
        print(f"proof compares {kept} of {total} outputs", flush=True)
        return made

    relocate.compare, CudaRecording.rehearse = compare, counted


def words_of(path: Path):
    from foundryrt.bundle.reader import Bundle

    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        for entry in manifest.graphs:
            table = bundle.template(entry.template)
            words = np.asarray(bundle.member_of(entry).apply(table))
            for node in range(len(table.kind)):
                start, end = map(int, table.parameter_start[node : node + 2])
                function = int(table.function[node])
                name = manifest.functions[function].name if table.kind[node] == 1 else "other"
                yield entry.key["batch"], node, name, words[start:end]


def differences(a: Path, b: Path) -> None:
    print("same bytes:", a.read_bytes() == b.read_bytes())
    counted, shown = Counter(), 0
    for one, two in zip(words_of(a), words_of(b), strict=True):
        for at in np.flatnonzero(one[3] != two[3]):
            counted[one[2][:80], int(at)] += 1
            if (shown := shown + 1) <= 20:
                print(one[0], one[1], one[2][:80], at, hex(one[3][at]), hex(two[3][at]))
    print("words that differ:", sum(counted.values()), counted.most_common(20))


def main(folder: Path, out: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.start.cold import search_path

    def run(script: str, *more: str, triple: Path | None = None) -> str:
        environment = os.environ | {"PYTHONPATH": search_path(), "SPAWNED": repr(time.time())}
        environment["STEP"] = script
        if triple:
            environment["OUT_TRIPLE"] = str(triple)
        began = time.time()
        done = subprocess.run(
            [sys.executable, __file__, MODEL, MODE, str(folder), *more],
            env=environment, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        print(f"{script} {more}: {time.time() - began:.1f} s, {done.returncode}", flush=True)
        print(done.stderr[-1500:] if done.returncode else done.stdout[-300:] * (script[0] == "c"))
        return done.stdout

    bundle = folder / f"{MODEL}.{MODE}.fdy"
    kept = []
    for number in (1, 2):
        run("capture.py", "prove", triple=out / f"triple{number}")
        if bundle.exists():
            kept.append(bundle.rename(folder / f"proved{number}.fdy"))
            print((folder / f"{MODEL}.{MODE}.captured.json").read_text())
            bundle.write_bytes(kept[-1].read_bytes())
    for at in ((), ("0x640000000000",)):
        said = run("replay.py", "verify", *at)
        if said:
            report = json.loads(said)
            print({key: report[key] for key in ("identical", "different")}, flush=True)
    if len(kept) == 2:
        differences(*kept)


if "STEP" in os.environ:
    inner(os.environ["STEP"])
else:
    main(*map(Path, sys.argv[1:]))
