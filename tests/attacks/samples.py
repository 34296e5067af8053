"""A small valid bundle that uses every part of the format, and ways to take it apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from foundryrt.bundle import tables
from foundryrt.bundle.layout import Codec, Section, align, pack_header, pack_table
from foundryrt.bundle.schema import (
    Build,
    Function,
    GraphEntry,
    Kernel,
    Manifest,
    Region,
    Requirements,
    SectionKind,
    Template,
    Tensor,
    WeightCopy,
    WeightFile,
    WeightRecipe,
    Weights,
    WeightSource,
    Workload,
)

KERNEL = b"\x7fELF a kernel binary" * 20
REGION = bytes(range(256)) * 8


def template_columns() -> dict[str, object]:
    """Three nodes in a row: kernel, copy, kernel."""
    return {
        "kind": [1, 2, 1], "function": [0, tables.NO_FUNCTION, 1],
        "parameter_start": [0, 5, 8, 10],
        "parameters": np.array([0, 1, 2, 0x600000002010, 4, 5, 6, 7, 8, 9]),
        "skeleton_start": [0, 2, 2, 4], "skeleton": [1, 2, 3, 4],
        "edge_from": [0, 1], "edge_to": [1, 2], "edge_from_port": [0, 0],
        "edge_to_port": [0, 0], "edge_type": [0, 1],
        "relocation_word": [3], "relocation_region": [1],
    }  # fmt: skip


def member_columns() -> dict[str, object]:
    """Two words that differ from the template's."""
    return {"word": [0, 7], "value": [100, 2**64 - 1]}


@dataclass
class Parts:
    """A bundle before assembly: sections as (kind, name, raw bytes, codec), and the manifest."""

    sections: list[tuple[int, str, bytes, int]]
    manifest: Manifest
    encoded: bytes | None = None
    """Stands for the encoded manifest where it is to be damaged."""
    edit_entry: Callable[[int, Section], Section] = field(default=lambda index, section: section)
    edit_table: Callable[[bytes], bytes] = field(default=lambda table: table)
    edit_file: Callable[[bytearray], None] = field(default=lambda data: None)
    optional: frozenset[int] = frozenset()

    def assemble(self) -> bytes:
        """The file's bytes; unlike the writer, this checks nothing."""
        data = bytearray(64)
        entries = []
        manifest = self.encoded or msgspec.msgpack.encode(self.manifest)
        for index, (kind, name, raw, codec) in enumerate(
            [*self.sections, (SectionKind.MANIFEST, "manifest", manifest, Codec.ZSTD)]
        ):
            stored = zstandard.compress(raw) if codec == Codec.ZSTD else raw
            data += bytes(align(len(data)) - len(data))
            digest = hashlib.sha256(stored).digest()
            entry = Section(
                kind, name, len(data), len(stored), len(raw), codec, digest, index in self.optional
            )
            entries.append(self.edit_entry(index, entry))
            data += stored
        data += bytes(align(len(data)) - len(data))
        table = self.edit_table(pack_table(entries))
        offset = len(data)
        data += table
        data[:64] = pack_header(table, offset, len(data))
        self.edit_file(data)
        return bytes(data)

    def write(self, path: Path) -> Path:
        """Write the file to `path` and return it."""
        path.write_bytes(self.assemble())
        return path


def parts() -> Parts:
    """A fresh valid bundle of the cuda target."""
    columns, template = tables.pack(template_columns(), tables.TEMPLATE_COLUMNS)
    own, member = tables.pack(member_columns(), tables.MEMBER_COLUMNS)
    source = WeightSource(
        file=0, name="layer.weight", offset=8, length=64, dtype="float32", rows=4, columns=4,
        sha256=bytes(32),
    )  # fmt: skip
    manifest = Manifest(
        format_version=1,
        target="cuda",
        workload=Workload(name="sample", settings={"size": 3, "name": "x", "ratio": 0.5}),
        requirements=Requirements(memory=1 << 20, architecture="sm_90", driver=13000),
        producer={"foundryc": "0.1.0"},
        provenance={"note": "made by hand"},
        relocatable=True,
        regions=(
            Region(name="weights", base=0x600000000000, size=8192, section=3),
            Region(name="io", base=0x600000002000, size=4096),
            Region(name="symmetric", base=0x600000003000, size=4096, peer_stride=4096),
        ),
        tensors=(
            Tensor(name="w", region=0, offset=0, dtype="float32", shape=(4, 4), strides=(4, 1),
                   role="weight"),
            Tensor(name="y", region=1, offset=128, dtype="float16", shape=(2, 3), strides=(1, 2),
                   role="output", graph=0),
        ),
        kernels=(Kernel(sha256=hashlib.sha256(KERNEL).digest(), section=2),),
        functions=(Function(name="gemm", kernel=0, max_dynamic_shared=1024),
                   Function(name="norm", kernel=0)),
        templates=(Template(section=0, nodes=3, edges=2, columns=columns),),
        graphs=(GraphEntry(name="decode", key={"batch": 8}, template=0, section=1, columns=own),),
        weights=Weights(
            files=(WeightFile(name="model.safetensors", size=4096, hint="/models/x"),),
            sources=(source,),
            recipes=(WeightRecipe(tensor=0, copies=(WeightCopy(source=0, rows=4, columns=4),)),),
        ),
    )  # fmt: skip
    sections = [
        (SectionKind.TEMPLATE, "template 0", template, Codec.ZSTD),
        (SectionKind.MEMBER, "decode 8", member, Codec.NONE),
        (SectionKind.KERNEL, "gemm", KERNEL, Codec.ZSTD),
        (SectionKind.REGION, "weights", REGION, Codec.NONE),
        (SectionKind.FILE, "tokenizer.json", b"{}", Codec.NONE),
    ]
    return Parts(sections, manifest)


def with_manifest(**changes: object) -> Parts:
    """The valid bundle with fields of its manifest replaced."""
    sample = parts()
    return replace(sample, manifest=msgspec.structs.replace(sample.manifest, **changes))


def with_tensor(**changes: object) -> Parts:
    """The valid bundle with fields of its second tensor replaced."""
    first, second = parts().manifest.tensors
    return with_manifest(tensors=(first, msgspec.structs.replace(second, **changes)))


def with_copy(**changes: object) -> Parts:
    """The valid bundle with fields of its one weight copy replaced."""
    weights = parts().manifest.weights
    copy = msgspec.structs.replace(weights.recipes[0].copies[0], **changes)
    recipes = (WeightRecipe(tensor=0, copies=(copy,)),)
    return with_manifest(weights=msgspec.structs.replace(weights, recipes=recipes))


def builds(*names: str, member: dict[str, object] | None = None, **changes: object) -> Parts:
    """The valid bundle with its graph built for these architectures, too."""
    sample, found = parts(), list[Build]()
    columns, data = tables.pack(member or member_columns(), tables.MEMBER_COLUMNS)
    for number, name in enumerate(names):
        build = Build(architecture=name, template=0, section=len(sample.sections), columns=columns)
        sample.sections.append((SectionKind.MEMBER, f"build {number}", data, Codec.NONE))
        found.append(msgspec.structs.replace(build, **changes))
    graph = msgspec.structs.replace(sample.manifest.graphs[0], builds=tuple(found))
    return replace(sample, manifest=msgspec.structs.replace(sample.manifest, graphs=(graph,)))


def with_template(**changes: object) -> Parts:
    """The valid bundle with columns of its template replaced."""
    sample = parts()
    columns, data = tables.pack({**template_columns(), **changes}, tables.TEMPLATE_COLUMNS)
    template = msgspec.structs.replace(sample.manifest.templates[0], columns=columns)
    return _with_section(0, data, templates=(template,))


def with_member(**changes: object) -> Parts:
    """The valid bundle with columns of its member replaced."""
    columns, data = tables.pack({**member_columns(), **changes}, tables.MEMBER_COLUMNS)
    graph = msgspec.structs.replace(parts().manifest.graphs[0], columns=columns)
    return _with_section(1, data, graphs=(graph,))


def with_section(index: int, **changes: object) -> Parts:
    """The valid bundle with fields of one section-table entry replaced."""
    return replace(
        parts(),
        edit_entry=lambda i, entry: replace(entry, **changes) if i == index else entry,
    )


def _with_section(index: int, data: bytes, **changes: object) -> Parts:
    sample = with_manifest(**changes)
    kind, name, _, codec = sample.sections[index]
    sample.sections[index] = (kind, name, data, codec)
    return sample
