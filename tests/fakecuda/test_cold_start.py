"""The cold start's process without torch, on the stand-in driver: what its report has."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.start import cold
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import SectionKind, Tensor
from foundryrt.bundle.writer import BundleWriter
from tests.fakecuda import bundle as counters


def decoder(source: Path, path: Path) -> None:
    """The counters' bundle under the names of a decoder: graphs, plan, cache and logits."""
    with Bundle.open(source) as bundle, BundleWriter(path) as writer:
        for index, section in enumerate(bundle.sections):
            if section.kind != SectionKind.MANIFEST:
                kind, kernel = SectionKind(section.kind), section.kind == SectionKind.KERNEL
                writer.add(kind, section.name, bytes(bundle.raw(index)), compress=not kernel)
        step, other, last = bundle.manifest.graphs
        graphs = (
            msgspec.structs.replace(step, name="decode", key={"batch": 1}),
            msgspec.structs.replace(other, name="decode", key={"batch": 2}),
            last,
        )
        tensors = (
            Tensor("plan.1", 1, 0, "int64", (2, 1), (1, 1), "input"),
            Tensor("cache", 0, 0, "int32", (counters.COUNT,), (1,), "state"),
            Tensor("logits", 1, 0, "int32", (counters.COUNT,), (1,), "output", 0),
        )
        writer.finish(msgspec.structs.replace(bundle.manifest, graphs=graphs, tensors=tensors))


def test_a_process_without_torch_reports_its_start(fake, tmp_path: Path, monkeypatch) -> None:
    # Packages may come from elsewhere than the environment's own folder, which .pth files say.
    monkeypatch.setenv("PYTHONPATH", str(Path(msgspec.__file__).parents[1]))
    source = counters.write(tmp_path / "counters.fdy")
    decoder(source, tmp_path / "qwen3-0.6b.eager.fdy")
    report = cold.step("replay.py", "qwen3-0.6b", "eager", tmp_path)
    assert (report["graphs"], report["templates"], report["torch_imported"]) == (3, 2, False)
    assert report["nodes"] == 11
    marks = report["marks_ms"]
    assert 0 < marks["imports"] < marks["open"] < marks["first_launch"] <= marks["all_ready"]
    assert report["ready_ms"][-1][1] == 3
    assert {"open", "context", "contents queued", "first graph"} <= report["timeline_ms"].keys()
