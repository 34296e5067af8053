"""What opening and verifying take is bounded by the file's own size."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard

from foundryrt.bundle import tables
from foundryrt.bundle.layout import Codec
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import SectionKind, Variable
from foundryrt.bundle.writer import BundleWriter
from tests.attacks.samples import Parts, parts, with_manifest, with_template

MEASURE = """
import sys
from pathlib import Path
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError

def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1])

Bundle.open(sys.argv[2]).verify()
before = peak()
try:
    with Bundle.open(sys.argv[1]) as bundle:
        bundle.verify()
    found = "ok"
except FoundryError as error:
    found = type(error).__name__
print(found, peak() - before)
"""


def cost(path: Path) -> tuple[str, float]:
    """What verifying ends with, and the MiB that it takes beyond a small bundle's."""
    good = parts().write(path.with_name("good.fdy"))
    command = [sys.executable, "-c", MEASURE, str(path), str(good)]
    found, kib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return found, int(kib) / 1024


def with_shape(count: int) -> Parts:
    """The second tensor has `count` dimensions of one element."""
    manifest = msgspec.to_builtins(parts().manifest, builtin_types=(bytes,))
    tensors = [dict(tensor) for tensor in manifest["tensors"]]
    tensors[1]["shape"] = [1] * count
    sample = parts()
    sample.encoded = msgspec.msgpack.encode({**manifest, "tensors": tensors})
    return sample


def with_texts(count: int) -> Parts:
    """Short texts, each of which is an object once it is parsed."""
    return with_manifest(provenance={f"{n:x}": "" for n in range(count)})


def with_zeros(kind: SectionKind, size: int, count: int = 1) -> Parts:
    """Sections that unpack to `size` zeros each."""
    if kind == SectionKind.REGION:
        first, *others = parts().manifest.regions
        first = msgspec.structs.replace(first, base=first.base - (1 << 40), size=size)
        memory = msgspec.structs.replace(parts().manifest.requirements, memory=1 << 40)
        sample = with_manifest(regions=(first, *others), requirements=memory)
        sample.sections[3] = (kind, "weights", bytes(size), Codec.ZSTD)
        return sample
    sample = parts()
    sample.sections += [(kind, f"zeros {n}", bytes(size), Codec.ZSTD) for n in range(count)]
    return sample


def with_functions(count: int) -> Parts:
    """Every node calls another function, none of which there is."""
    empty = {name: [] for name in tables.TEMPLATE_COLUMNS}
    starts = np.zeros(count + 1, np.uint32)
    sample = with_template(
        **empty | {"parameter_start": starts, "skeleton_start": starts, "kind": np.ones(count),
                   "function": np.arange(2, count + 2)},
    )  # fmt: skip
    table = msgspec.structs.replace(sample.manifest.templates[0], nodes=count, edges=0)
    sample.manifest = msgspec.structs.replace(sample.manifest, templates=(table,))
    sample.sections[0] = (*sample.sections[0][:3], Codec.NONE)
    return sample


@pytest.mark.parametrize(
    ("attack", "found", "most"),
    [
        (with_shape(20_000_000), "SectionTooLarge", 1),
        (with_shape(90_000), "ManifestMalformed", 2),
        (with_texts(20_000), "ok", 20),
        (with_zeros(SectionKind.FILE, 32 << 20), "SectionTooLarge", 1),
        (with_zeros(SectionKind.FILE, 250 << 10, 200), "ok", 4),
        (with_zeros(SectionKind.REGION, 16 << 20), "ok", 6),
        (with_functions(500_000), "TableMalformed", 16),
    ],
    ids=["shape", "short shape", "texts", "file", "files", "region", "functions"],
)
def test_memory(attack: Parts, found: str, most: float, tmp_path: Path) -> None:
    path = attack.write(tmp_path / "attack.fdy")
    said, taken = cost(path)
    assert said == found
    assert taken <= most + path.stat().st_size / (1 << 20)


def test_a_frame_that_looks_far_back(tmp_path: Path) -> None:
    """Unpacking in steps keeps what a frame may look back at: refused beyond 8 MiB."""
    sample = with_zeros(SectionKind.REGION, 32 << 20)
    noise = np.random.default_rng(1).bytes(1 << 20) + bytes(31 << 20)
    wide = zstandard.ZstdCompressionParameters(window_log=25, write_content_size=True)
    frame = zstandard.ZstdCompressor(compression_params=wide).compress(noise)
    sample.sections[3] = (SectionKind.REGION, "weights", frame, Codec.NONE)
    sample.edit_entry = lambda i, e: replace(e, codec=Codec.ZSTD, raw=32 << 20) if i == 3 else e
    said, taken = cost(sample.write(tmp_path / "wide.fdy"))
    assert said == "SectionUnpackFailed" and taken < 16


def test_a_module_variable_is_as_large_as_it_is(tmp_path: Path) -> None:
    sample, path = parts(), tmp_path / "large.fdy"
    variable = Variable(kernel=0, name="table", data=bytes(3 << 20))
    with BundleWriter(path) as writer:
        for kind, name, data, codec in sample.sections:
            writer.add(SectionKind(kind), name, data, codec == Codec.ZSTD)
        writer.finish(msgspec.structs.replace(sample.manifest, variables=(variable,)))
    with Bundle.open(path) as bundle:
        bundle.verify()
        assert bundle.manifest.variables == (variable,)


def test_what_shrinks_too_much_is_stored_as_it_is(tmp_path: Path) -> None:
    sample = parts()
    path = tmp_path / "zeros.fdy"
    with BundleWriter(path) as writer:
        for kind, name, data, codec in sample.sections:
            writer.add(SectionKind(kind), name, data, codec == Codec.ZSTD)
        writer.add(SectionKind.FILE, "zeros", bytes(1 << 20))
        writer.finish(sample.manifest)
    with Bundle.open(path) as bundle:
        bundle.verify()
        assert bundle.sections[5].codec == Codec.NONE and bundle.file("zeros") == bytes(1 << 20)
