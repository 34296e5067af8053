"""Each kind of damage has its own error, and each error a test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zstandard

from foundryrt.bundle import errors
from foundryrt.bundle.builds import architectures, built_for
from foundryrt.bundle.layout import Codec
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import (
    Column,
    Extent,
    Function,
    Kernel,
    Random,
    Ranks,
    Region,
    Relocation,
    SectionKind,
    Tensor,
    Variable,
    WeightRecipe,
)
from foundryrt.errors import UsageError
from tests.attacks import samples
from tests.attacks.samples import (
    Parts,
    builds,
    parts,
    with_copy,
    with_manifest,
    with_member,
    with_section,
    with_template,
    with_tensor,
)


def file_edit(edit) -> Parts:
    return replace(parts(), edit_file=edit)


def overwrite(offset: int, data: bytes) -> Parts:
    def edit(file: bytearray) -> None:
        file[offset : offset + len(data)] = data

    return file_edit(edit)


def append(data: bytes) -> Parts:
    return file_edit(lambda file: file.extend(data))


def cut(length: int) -> Parts:
    def edit(file: bytearray) -> None:
        del file[length:]

    return file_edit(edit)


def regions(index: int, **changes: object) -> Parts:
    changed = list(parts().manifest.regions)
    changed[index] = msgspec.structs.replace(changed[index], **changes)
    return with_manifest(regions=tuple(changed))


def weights(field: str, **changes: object) -> Parts:
    old = parts().manifest.weights
    entry = msgspec.structs.replace(getattr(old, field)[0], **changes)
    return with_manifest(weights=msgspec.structs.replace(old, **{field: (entry,)}))


def graph(**changes: object) -> Parts:
    return with_manifest(graphs=(msgspec.structs.replace(parts().manifest.graphs[0], **changes),))


def template(**changes: object) -> Parts:
    changed = msgspec.structs.replace(parts().manifest.templates[0], **changes)
    return with_manifest(templates=(changed,))


def column(name: str, **changes: object) -> Parts:
    columns = dict(parts().manifest.templates[0].columns)
    columns[name] = msgspec.structs.replace(columns[name], **changes)
    return template(columns=columns)


def relocations(*offsets: int) -> Parts:
    """Among the first bytes of the weights, which are 2048."""
    return regions(0, relocations=tuple(Relocation(offset=at, region=0) for at in offsets))


def extents(*places: tuple[int, int], relocations: Sequence[int] = ()) -> Parts:
    """Of the first bytes of the weights, which are 2048, in a region of 8192."""
    return regions(
        0,
        extents=tuple(Extent(offset=offset, size=size) for offset, size in places),
        relocations=tuple(Relocation(offset=at, region=0) for at in relocations),
    )


def variable(**changes: object) -> Parts:
    return with_manifest(variables=(Variable(kernel=0, name="table", data=bytes(8), **changes),))


def random(seed: int = 0) -> Parts:
    return with_manifest(random=Random(seed=seed, offset=1, initial_seed=0))


def second_graph(sample: Parts) -> Parts:
    """Beside that graph one that is built for nothing else."""
    manifest = sample.manifest
    sample.sections.append((SectionKind.MEMBER, "other", sample.sections[1][2], Codec.NONE))
    other = msgspec.structs.replace(
        parts().manifest.graphs[0], name="other", section=len(sample.sections) - 1
    )
    changed = msgspec.structs.replace(manifest, graphs=(*manifest.graphs, other))
    return replace(sample, manifest=changed)


SLABS = Region(name="symmetric", base=0x600000003000, size=8192, peer_stride=4096)
WORDS = Tensor(
    name="ranks", region=1, offset=512, dtype="int32", shape=(4,), strides=(1,), role="state"
)


def ranks(
    world: int = 2, words: int = 2, slabs: Region | None = SLABS, tensor: Tensor = WORDS
) -> Parts:
    """The valid bundle for two ranks."""
    manifest = parts().manifest
    return with_manifest(
        ranks=Ranks(world=world, words=words),
        regions=(*manifest.regions[:2], *([slabs] if slabs else [])),
        tensors=(*manifest.tensors, tensor),
    )


def words(**changes: object) -> Parts:
    return ranks(tensor=msgspec.structs.replace(WORDS, **changes))


def slabs(**changes: object) -> Parts:
    return ranks(slabs=msgspec.structs.replace(SLABS, **changes))


def recipes(*of: int, rows: int = 4, sample: Parts | None = None) -> Parts:
    """The bundle for two ranks, or `sample`, with recipes of these for its weight."""
    sample = sample or ranks()
    old = sample.manifest.weights
    copy = msgspec.structs.replace(old.recipes[0].copies[0], rows=rows)
    changed = tuple(WeightRecipe(tensor=0, copies=(copy,), rank=rank) for rank in of)
    weights = msgspec.structs.replace(old, recipes=changed)
    return replace(sample, manifest=msgspec.structs.replace(sample.manifest, weights=weights))


def extra_section(kind: int, name: str, codec: int = Codec.NONE, optional: bool = False) -> Parts:
    sample = parts()
    sample.sections.append((kind, name, b"later", codec))
    return replace(sample, optional=frozenset({5} if optional else ()))


def without_manifest() -> Parts:
    return with_section(5, kind=SectionKind.FILE)


def encoded_manifest(data: bytes) -> Parts:
    return replace(parts(), encoded=data)


def bomb() -> Parts:
    """A frame of a few bytes that says it unpacks to 300 MiB, as the table does."""
    sample = parts()
    frame = zstandard.compress(bytes(300 << 20))
    kind, name, _, _ = sample.sections[4]
    sample.sections[4] = (kind, name, frame, Codec.NONE)
    sample.edit_entry = lambda i, e: replace(e, codec=Codec.ZSTD, raw=300 << 20) if i == 4 else e
    return sample


def lying_frame() -> Parts:
    """A frame that unpacks to more than the table says."""
    sample = parts()
    kind, name, _, _ = sample.sections[4]
    sample.sections[4] = (kind, name, zstandard.compress(bytes(100_000)), Codec.NONE)
    sample.edit_entry = lambda i, e: replace(e, codec=Codec.ZSTD, raw=10) if i == 4 else e
    return sample


def broken_frame() -> Parts:
    sample = parts()
    kind, name, _, _ = sample.sections[4]
    frame = bytearray(zstandard.compress(b"some text, some text, some text" * 9))
    frame[-6:] = b"\xff" * 6
    sample.sections[4] = (kind, name, bytes(frame), Codec.NONE)
    sample.edit_entry = lambda i, e: replace(e, codec=Codec.ZSTD, raw=279) if i == 4 else e
    return sample


def hidden_page() -> Parts:
    """4 KiB that no section covers."""
    sample = parts()
    sample.sections.insert(4, (SectionKind.FILE, "hidden", bytes(10), Codec.NONE))

    def drop(table: bytes) -> bytes:
        return table[: 4 * 128] + table[5 * 128 :]

    sample.edit_table = drop
    return sample


DEEP = b"\x91" * 100_000
ATTACKS = {
    "empty file": (cut(0), errors.NotABundle),
    "other magic": (overwrite(0, b"PK\x03\x04"), errors.NotABundle),
    "later version": (overwrite(3, b"\x02"), errors.UnsupportedVersion),
    "cut in header": (cut(40), errors.LengthMismatch),
    "cut in sections": (cut(5000), errors.LengthMismatch),
    "bytes appended": (append(b"x"), errors.LengthMismatch),
    "reserved header word": (overwrite(24, struct.pack("<Q", 1)), errors.HeaderDamaged),
    "no sections": (overwrite(4, struct.pack("<I", 0)), errors.HeaderDamaged),
    "too many sections": (overwrite(4, b"\xff" * 4), errors.HeaderDamaged),
    "table beyond file": (overwrite(8, struct.pack("<Q", 1 << 40)), errors.HeaderDamaged),
    "table unaligned": (overwrite(8, struct.pack("<Q", 4097)), errors.HeaderDamaged),
    "table digest": (overwrite(40, b"\0" * 8), errors.TableDamaged),
    "two sections of one name": (
        extra_section(SectionKind.FILE, "tokenizer.json"),
        errors.SectionMalformed,
    ),
    "flags": (
        replace(parts(), edit_table=lambda t: t[:3] + b"\x82" + t[4:]),
        errors.SectionMalformed,
    ),
    "name not UTF-8": (
        replace(parts(), edit_table=lambda t: t[:64] + b"\xff" * 64 + t[128:]),
        errors.SectionMalformed,
    ),
    "escape sequence in a name": (
        replace(parts(), edit_table=lambda t: t[:64] + b"\x1b[2J".ljust(64, b"\0") + t[128:]),
        errors.SectionMalformed,
    ),
    "unaligned section": (with_section(1, offset=8200), errors.SectionMisaligned),
    "overlapping sections": (with_section(1, offset=4096), errors.SectionOverlap),
    "section over the header": (with_section(0, offset=0), errors.SectionOverlap),
    "section beyond the table": (with_section(5, stored=1 << 20), errors.SectionOutOfBounds),
    "section of 2^64 bytes": (with_section(5, stored=2**64 - 1), errors.SectionOutOfBounds),
    "hidden page": (hidden_page(), errors.UncoveredBytes),
    "padding used": (overwrite(4095, b"x"), errors.UncoveredBytes),
    "unknown section": (extra_section(99, "later"), errors.UnknownSection),
    "signature before the end": (
        extra_section(SectionKind.SIGNATURE, "signatures", optional=True),
        errors.SignatureMalformed,
    ),
    "unknown codec": (extra_section(SectionKind.FILE, "later", 7), errors.UnknownCodec),
    "decompression bomb": (bomb(), errors.SectionTooLarge),
    "frame longer than stated": (lying_frame(), errors.SectionUnpackFailed),
    "broken frame": (broken_frame(), errors.SectionUnpackFailed),
    "uncompressed lengths differ": (with_section(4, raw=3), errors.SectionUnpackFailed),
    "no manifest": (without_manifest(), errors.ManifestMissing),
    "two manifests": (extra_section(SectionKind.MANIFEST, "other"), errors.ManifestMissing),
    "manifest is not MessagePack": (encoded_manifest(b"\xc1"), errors.ManifestMalformed),
    "manifest is cut": (encoded_manifest(b"\x81\xa1"), errors.ManifestMalformed),
    "manifest nested deep": (encoded_manifest(DEEP), errors.ManifestMalformed),
    "manifest of another shape": (encoded_manifest(b"\x90"), errors.ManifestMalformed),
    "format version differs": (with_manifest(format_version=2), errors.InvalidValue),
    "unknown target": (with_manifest(target="tpu"), errors.InvalidValue),
    "escape sequence in the workload": (
        with_manifest(producer={"torch": "\x1b]0;x\x07"}),
        errors.InvalidValue,
    ),
    "function without kernel": (
        with_manifest(functions=(Function(name="f"), Function(name="g"))),
        errors.InvalidReference,
    ),
    "kernel section is a file": (
        with_manifest(kernels=(Kernel(sha256=bytes(32), section=4),)),
        errors.InvalidReference,
    ),
    "section used by nothing": (
        with_manifest(kernels=(), functions=()),
        errors.InvalidReference,
    ),
    "section used twice": (
        with_manifest(
            kernels=(Kernel(sha256=bytes(32), section=2), Kernel(sha256=b"x" * 32, section=2))
        ),
        errors.DuplicateName,
    ),
    "kernel digest short": (
        with_manifest(kernels=(Kernel(sha256=b"short", section=2),)),
        errors.InvalidValue,
    ),
    "kernel of another digest": (
        with_manifest(kernels=(Kernel(sha256=bytes(32), section=2),)),
        errors.KernelDigestMismatch,
    ),
    "graph of no template": (graph(template=1), errors.InvalidReference),
    "graph of a negative template": (graph(template=-1), errors.InvalidReference),
    "two graphs of one key": (
        with_manifest(graphs=parts().manifest.graphs * 2),
        errors.DuplicateName,
    ),
    "two tensors of one name": (
        with_manifest(tensors=parts().manifest.tensors[:1] * 2),
        errors.DuplicateName,
    ),
    "unknown region name": (regions(0, name="heap"), errors.InvalidValue),
    "region unaligned": (regions(0, base=0x600000000001), errors.InvalidValue),
    "region of negative size": (regions(0, size=-4096), errors.InvalidValue),
    "region beyond the address space": (regions(2, base=2**60), errors.InvalidValue),
    "regions overlap": (regions(1, base=0x600000001000), errors.RegionOverlap),
    "initial bytes exceed the region": (regions(0, size=1024), errors.InvalidValue),
    "an extent of nothing": (extents((0, 2048), (4096, 0)), errors.InvalidValue),
    "an extent before the region": (extents((-8, 2048)), errors.InvalidValue),
    "an extent beyond the region": (extents((8192 - 2047, 2048)), errors.InvalidValue),
    "an extent beyond 64 bits": (extents((2**64 - 8, 2048)), errors.InvalidValue),
    "an extent at no multiple of 8": (extents((4, 2048)), errors.InvalidValue),
    "extents that overlap": (extents((0, 1024), (1016, 1024)), errors.InvalidValue),
    "extents in falling order": (extents((4096, 1024), (0, 1024)), errors.InvalidValue),
    "extents of more than is stored": (extents((0, 1024), (2048, 1032)), errors.InvalidValue),
    "extents of less than is stored": (extents((0, 1024), (2048, 1016)), errors.InvalidValue),
    "extents of nothing that is stored": (
        regions(1, extents=(Extent(offset=0, size=8),)),
        errors.InvalidValue,
    ),
    "a relocation between extents": (
        extents((0, 1024), (2048, 1024), relocations=[1024]),
        errors.InvalidValue,
    ),
    "a relocation across an extent's end": (
        extents((0, 1020), (2048, 1028), relocations=[1016]),
        errors.InvalidValue,
    ),
    "a relocation behind all extents": (
        extents((0, 1024), (2048, 1024), relocations=[3072]),
        errors.InvalidValue,
    ),
    "a relocation of no address in an extent": (
        extents((0, 1024), (2048, 1024), relocations=[2056]),
        errors.InvalidValue,
    ),
    "peer stride outside symmetric": (regions(1, peer_stride=4096), errors.InvalidValue),
    "one rank": (ranks(world=1, slabs=SLABS), errors.InvalidValue),
    "ranks without number": (ranks(world=1 << 40), errors.InvalidValue),
    "ranks without slabs": (ranks(slabs=None), errors.InvalidValue),
    "more ranks than slabs": (ranks(world=3), errors.InvalidValue),
    "fewer ranks than slabs": (slabs(size=12288), errors.InvalidValue),
    "slabs unaligned": (slabs(size=4096, peer_stride=2048), errors.InvalidValue),
    "slabs without stride": (slabs(peer_stride=0), errors.InvalidValue),
    "slabs with initial bytes": (
        with_manifest(
            ranks=ranks().manifest.ranks,
            tensors=ranks().manifest.tensors,
            regions=(
                msgspec.structs.replace(parts().manifest.regions[0], section=-1),
                parts().manifest.regions[1],
                msgspec.structs.replace(SLABS, section=3),
            ),
        ),
        errors.InvalidValue,
    ),
    "ranks without words": (ranks(words=3), errors.InvalidReference),
    "ranks' words elsewhere": (ranks(words=0), errors.InvalidValue),
    "ranks' words of another type": (words(dtype="float32"), errors.InvalidValue),
    "five words of ranks": (words(shape=(5,)), errors.InvalidValue),
    "ranks' words apart": (words(strides=(2,)), errors.InvalidValue),
    "ranks' words as weights": (words(role="weight"), errors.InvalidValue),
    "ranks' words of a graph": (words(graph=0), errors.InvalidValue),
    "ranks' words in the slabs": (words(region=2), errors.InvalidValue),
    "regions exceed the stated memory": (
        with_manifest(
            requirements=msgspec.structs.replace(parts().manifest.requirements, memory=1)
        ),
        errors.InvalidValue,
    ),
    "tensor beyond its region": (with_tensor(offset=4088), errors.TensorOutOfBounds),
    "tensor strides beyond its region": (with_tensor(strides=(1, 4000)), errors.TensorOutOfBounds),
    "tensor extent overflows": (
        with_tensor(shape=(2**40, 2**40), strides=(2**40, 1)),
        errors.TensorOutOfBounds,
    ),
    "tensor of negative stride": (with_tensor(strides=(-1, 2)), errors.InvalidValue),
    "tensor of unknown dtype": (with_tensor(dtype="float128"), errors.InvalidValue),
    "tensor of unknown role": (with_tensor(role="secret"), errors.InvalidValue),
    "tensor unaligned": (with_tensor(offset=129), errors.InvalidValue),
    "tensor rank and strides differ": (with_tensor(strides=(1,)), errors.InvalidValue),
    "tensor of no region": (with_tensor(region=3), errors.InvalidReference),
    "tensor of no graph": (with_tensor(graph=1), errors.InvalidReference),
    "weight file above its folder": (weights("files", name="a/../x"), errors.InvalidValue),
    "weight file from the root": (weights("files", name="/etc/x"), errors.InvalidValue),
    "weight source beyond its file": (weights("sources", offset=4090), errors.WeightOutOfBounds),
    "weight source of a negative offset": (weights("sources", offset=-8), errors.WeightOutOfBounds),
    "weight source length": (weights("sources", length=60), errors.InvalidValue),
    "weight source of no file": (weights("sources", file=1), errors.InvalidReference),
    "weight source digest short": (weights("sources", sha256=b""), errors.InvalidValue),
    "weight copy reads beyond": (with_copy(source_row=1), errors.WeightOutOfBounds),
    "weight copy reads beyond a row": (with_copy(source_column=1), errors.WeightOutOfBounds),
    "weight copy writes beyond": (with_copy(row_step=2), errors.WeightOutOfBounds),
    "weight copy leaves a hole": (with_copy(rows=3), errors.WeightOutOfBounds),
    "weight copy of no rows": (with_copy(rows=0), errors.InvalidValue),
    "weight copy of no source": (with_copy(source=1), errors.InvalidReference),
    "weight recipe of no tensor": (weights("recipes", tensor=2), errors.InvalidReference),
    "weight recipe of an output": (weights("recipes", tensor=1), errors.InvalidValue),
    "weight recipes of ranks, of which there are none": (
        recipes(0, 1, sample=parts()),
        errors.InvalidValue,
    ),
    "weight recipe of one rank of two": (recipes(0), errors.InvalidValue),
    "weight recipe of a third rank of two": (recipes(0, 1, 2), errors.InvalidValue),
    "weight recipe of a negative rank": (recipes(-2), errors.InvalidValue),
    "weight recipe of a rank and of all": (recipes(-1, 0, 1), errors.InvalidValue),
    "two weight recipes of a rank": (recipes(0, 1, 1), errors.DuplicateName),
    "weight recipe of a rank leaves a hole": (recipes(0, 1, rows=3), errors.WeightOutOfBounds),
    "column missing": (template(columns={}), errors.TableMalformed),
    "column of another type": (column("kind", dtype="u8"), errors.TableMalformed),
    "column beyond its section": (column("parameters", count=1 << 40), errors.TableMalformed),
    "column at a negative offset": (column("kind", offset=-8), errors.TableMalformed),
    "column of a negative count": (column("kind", count=-1), errors.TableMalformed),
    "node counts differ": (template(nodes=4), errors.TableMalformed),
    "edge counts differ": (template(edges=1), errors.TableMalformed),
    "node of unknown kind": (with_template(kind=[1, 9, 1]), errors.TableMalformed),
    "node of unknown function": (
        with_template(function=[0, 0xFFFFFFFF, 2]),
        errors.TableMalformed,
    ),
    "copy that names a function": (with_template(function=[0, 1, 1]), errors.TableMalformed),
    "edge to no node": (with_template(edge_to=[1, 3]), errors.TableMalformed),
    "edge backwards": (with_template(edge_from=[0, 2], edge_to=[1, 1]), errors.TableMalformed),
    "edge to itself": (with_template(edge_from=[0, 2], edge_to=[1, 2]), errors.TableMalformed),
    "parameters fall": (with_template(parameter_start=[0, 8, 5, 10]), errors.TableMalformed),
    "parameters not spanned": (with_template(parameter_start=[0, 5, 8, 9]), errors.TableMalformed),
    "skeleton beyond": (with_template(skeleton_start=[0, 2, 2, 5]), errors.TableMalformed),
    "relocation beyond": (with_template(relocation_word=[10]), errors.TableMalformed),
    "relocation of a number": (with_template(relocation_word=[4]), errors.InvalidValue),
    "relocation of another region's address": (
        with_template(relocation_region=[0]),
        errors.InvalidValue,
    ),
    "relocation of a member's number": (with_member(word=[0, 3]), errors.InvalidValue),
    "relocation of a number in memory": (relocations(8), errors.InvalidValue),
    "relocation of a number in a variable": (
        variable(relocations=(Relocation(offset=0, region=0),)),
        errors.InvalidValue,
    ),
    "relocation of no region": (with_template(relocation_region=[3]), errors.TableMalformed),
    "relocations differ": (with_template(relocation_word=[]), errors.TableMalformed),
    "relocations out of order": (
        with_template(relocation_word=[4, 3], relocation_region=[0, 1]),
        errors.TableMalformed,
    ),
    "relocation twice": (
        with_template(relocation_word=[4, 4], relocation_region=[0, 1]),
        errors.TableMalformed,
    ),
    "relocation in memory behind its end": (relocations(2044), errors.InvalidValue),
    "relocation in memory unaligned": (relocations(4), errors.InvalidValue),
    "relocation in memory at a negative offset": (relocations(-8), errors.InvalidValue),
    "relocations in memory overlap": (relocations(8, 8), errors.InvalidValue),
    "relocation in memory to no region": (
        regions(0, relocations=(Relocation(offset=8, region=3),)),
        errors.InvalidReference,
    ),
    "relocation in zeros": (
        regions(1, relocations=(Relocation(offset=0, region=1),)),
        errors.InvalidValue,
    ),
    "relocation in a variable behind its end": (
        variable(relocations=(Relocation(offset=8, region=0),)),
        errors.InvalidValue,
    ),
    "relocation in a variable to no region": (
        variable(relocations=(Relocation(offset=0, region=-1),)),
        errors.InvalidReference,
    ),
    "foreign region with a name of the arena": (
        regions(1, owner="a library"),
        errors.InvalidValue,
    ),
    "region of nobody": (regions(1, name="mine"), errors.InvalidValue),
    "foreign region out of line": (
        regions(1, name="foreign 0", owner="a library", base=0x700000000008),
        errors.InvalidValue,
    ),
    "owner with an escape": (
        regions(1, name="foreign 0", owner="\x1b[2J"),
        errors.InvalidValue,
    ),
    "too many regions": (
        with_manifest(
            regions=(
                *parts().manifest.regions,
                *(
                    Region(name=f"foreign {i}", base=4096 * i, size=8, owner="a library")
                    for i in range(253)
                ),
            )
        ),
        errors.InvalidValue,
    ),
    "random numbers without a generator": (graph(random=4), errors.InvalidValue),
    "random numbers that go back": (graph(random=-4), errors.InvalidValue),
    "random state in no tensor": (random(seed=5), errors.InvalidReference),
    "random state in a matrix": (random(), errors.InvalidValue),
    "relocatable host bundle": (
        with_manifest(target="host", relocatable=True),
        errors.InvalidValue,
    ),
    "unproved and bound to its place": (
        with_manifest(unproved=(1,), relocatable=False),
        errors.InvalidValue,
    ),
    "unproved twice": (with_manifest(unproved=(1, 1)), errors.DuplicateName),
    "unproved, and not there": (with_manifest(unproved=(77,)), errors.InvalidReference),
    "unproved, and no output": (with_manifest(unproved=(0,)), errors.InvalidValue),
    "built twice for one architecture": (builds("sm_80", "sm_80"), errors.DuplicateName),
    "built again for its own": (builds("sm_90"), errors.DuplicateName),
    "built for nothing that has a name": (builds(""), errors.InvalidValue),
    "built for another in part": (second_graph(builds("sm_80")), errors.InvalidValue),
    "built on host": (
        replace(
            builds("sm_80"),
            manifest=msgspec.structs.replace(
                builds("sm_80").manifest, target="host", relocatable=False
            ),
        ),
        errors.InvalidValue,
    ),
    "a build of no template": (builds("sm_80", template=7), errors.InvalidReference),
    "a build whose member is the graph's": (builds("sm_80", section=1), errors.DuplicateName),
    "a build's word beyond": (
        builds("sm_80", member={"word": [0, 10], "value": [1, 2]}),
        errors.TableMalformed,
    ),
    "a build's address of no region": (
        builds("sm_80", member={"word": [3], "value": [5]}),
        errors.InvalidValue,
    ),
    "word beyond": (with_member(word=[0, 10]), errors.TableMalformed),
    "words twice": (with_member(word=[7, 7]), errors.TableMalformed),
    "word without value": (with_member(value=[1]), errors.TableMalformed),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path) -> None:
    attack, error = ATTACKS[name]
    path = attack.write(tmp_path / "attack.fdy")
    with pytest.raises(error) as raised, Bundle.open(path) as bundle:
        bundle.verify()
    # Exactly this error: a base class would hide that another check fired first.
    assert type(raised.value) is error


def test_words_without_values_do_not_reach_native_code(tmp_path: Path) -> None:
    path = with_member(value=[1]).write(tmp_path / "a.fdy")
    with Bundle.open(path) as bundle, pytest.raises(errors.TableMalformed, match="in length"):
        bundle.member(0)


def test_valid_sample_is_accepted(tmp_path: Path) -> None:
    with Bundle.open(parts().write(tmp_path / "a.fdy")) as bundle:
        bundle.verify()
        assert bundle.manifest == parts().manifest
        assert bundle.file("tokenizer.json") == b"{}"
        assert bytes(bundle.kernel(0)) == samples.KERNEL
        words = bundle.member(0).apply(bundle.template(0))
        assert words.tolist() == [100, 1, 2, 0x600000002010, 4, 5, 6, 2**64 - 1, 8, 9]


def test_valid_builds_are_accepted(tmp_path: Path) -> None:
    with Bundle.open(builds("sm_80", "sm_120").write(tmp_path / "a.fdy")) as bundle:
        bundle.verify()
        assert architectures(bundle.manifest) == ("sm_90", "sm_80", "sm_120")
        chosen = built_for(bundle.manifest, "sm_80")
        assert (chosen.graphs[0].section, chosen.weights.digest_kernel) == (5, -1)
        assert architectures(chosen) == ("sm_80",)
        own = built_for(bundle.manifest, "sm_90")
        assert own == parts().manifest
    with Bundle.open(parts().write(tmp_path / "b.fdy")) as bundle:
        assert architectures(bundle.manifest) == ("sm_90",)


def test_valid_ranks_are_accepted(tmp_path: Path) -> None:
    with Bundle.open(ranks().write(tmp_path / "a.fdy")) as bundle:
        bundle.verify()
        assert bundle.manifest == ranks().manifest
    with Bundle.open(parts().write(tmp_path / "b.fdy")) as bundle:
        assert not bundle.manifest.ranks


def test_valid_recipes_of_ranks_are_accepted(tmp_path: Path) -> None:
    for sample in (recipes(0, 1), recipes(-1), recipes(-1, sample=parts())):
        with Bundle.open(sample.write(tmp_path / "a.fdy")) as bundle:
            bundle.verify()
            assert bundle.manifest == sample.manifest


def test_digest_of_each_section(tmp_path: Path) -> None:
    good = parts().write(tmp_path / "good.fdy")
    with Bundle.open(good) as bundle:
        sections = bundle.sections
    data = good.read_bytes()
    for section in sections:
        bad = bytearray(data)
        bad[section.offset + section.stored // 2] ^= 1
        path = tmp_path / "bad.fdy"
        path.write_bytes(bad)
        with (
            pytest.raises(
                errors.SectionDigestMismatch,
                match=rf"^{path}: \w+ '{section.name}' .*copy it again$",
            ),
            Bundle.open(path) as bundle,
        ):
            bundle.verify()


def test_unknown_optional_section_is_skipped(tmp_path: Path) -> None:
    path = extra_section(99, "later", codec=9, optional=True).write(tmp_path / "a.fdy")
    with Bundle.open(path) as bundle:
        bundle.verify()
        assert len(bundle.sections) == 7


def test_every_error_has_an_attack() -> None:
    named = {error for _, error in ATTACKS.values()} | {errors.SectionDigestMismatch}
    kinds = set(errors.BundleError.__subclasses__())
    assert kinds == named


def test_no_such_file(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "none.fdy", "no such file$"),
        (Path("https://host/none.fdy"), "no such file; a URL will not do here"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UsageError, match=why):
            Bundle.open(path)


def test_file_that_is_not_attached(tmp_path: Path) -> None:
    with (
        Bundle.open(parts().write(tmp_path / "a.fdy")) as bundle,
        pytest.raises(errors.InvalidReference, match=r"tokenizer\.json"),
    ):
        bundle.file("../../etc/passwd")


def test_column_type_is_not_evaluated() -> None:
    """A column's dtype is compared with the expected name, never handed to numpy."""
    from foundryrt.bundle import tables

    column = Column(dtype="O", offset=0, count=1)
    with pytest.raises(errors.TableMalformed):
        tables.unpack(
            {"word": column, "value": column}, tables.MEMBER_COLUMNS, memoryview(bytes(8))
        )
