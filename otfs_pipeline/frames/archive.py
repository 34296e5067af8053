"""A SigMF archive: a tar file with the metadata and the dataset of one recording, read in place."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foundryrt.errors import FoundryError, UsageError
from foundryrt.printable import printable

_META, _DATA = ".sigmf-meta", ".sigmf-data"
# Metadata is read as a whole; a member of more bytes is none.
_METADATA_LIMIT = 1 << 28


@dataclass(frozen=True)
class Archive:
    """Its metadata and members: name -> (first byte, bytes)."""

    meta_name: str
    metadata: bytes
    members: dict[str, tuple[int, int]]

    def dataset(self, name: str) -> tuple[int, int]:
        """First byte and bytes of the dataset; `name` is `core:dataset`, or empty."""
        meta = PurePosixPath(self.meta_name)
        member = str(meta.with_name(name) if name else meta.with_suffix(_DATA))
        if member not in self.members:
            raise FoundryError(f"{printable(member)} is not in the archive")
        return self.members[member]


def is_archive(path: Path) -> bool:
    """Whether the name is an archive's; UsageError for a compressed one and for a collection."""
    name = path.name.lower()
    if name.endswith((".sigmf.gz", ".sigmf.xz", ".sigmf.bz2", ".sigmf.zst", ".sigmf.zip")):
        raise UsageError(f"recording {path}: decompress the archive first")
    if name.endswith(".sigmf-collection"):
        raise UsageError(f"recording {path}: a collection; give one of its recordings")
    return name.endswith(".sigmf")


def read_archive(path: Path) -> Archive:
    """FoundryError unless `path` is a tar file, not compressed, with one recording."""
    try:
        with tarfile.open(path, "r:") as tar:
            files = [member for member in tar.getmembers() if member.isfile()]
            metas = [member for member in files if member.name.endswith(_META)]
            names = [member.name for member in files]
            if len(metas) != 1:
                raise FoundryError(
                    f"archive {path} holds {len(metas)} recordings; extract it and give one"
                )
            if len(set(names)) != len(names) or any(m.issparse() for m in files):
                raise FoundryError(f"archive {path}: a member comes twice or has holes")
            size = path.stat().st_size
            cut = [m.name for m in files if m.offset_data + m.size > size]
            if cut or metas[0].size > _METADATA_LIMIT:
                name = printable(cut[0] if cut else metas[0].name)
                raise FoundryError(f"archive {path}: {name} is {'cut off' if cut else 'too long'}")
            opened = tar.extractfile(metas[0])
            text = opened.read() if opened else b""
    except tarfile.TarError as error:
        raise FoundryError(f"archive {path} is no tar file: {printable(error)}") from error
    except OSError as error:
        raise FoundryError(f"archive {path}: {error.strerror or error}") from error
    return Archive(metas[0].name, text, {m.name: (m.offset_data, m.size) for m in files})
