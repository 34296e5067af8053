"""Entry point of `foundryrt`: begins the driver's start before the command's imports."""

from __future__ import annotations

import sys


def _target(path: str) -> str:
    """The target of the bundle at `path`, or "" where that cannot be told: opening it says why.

    Reads the manifest alone: nothing but the start of the driver hangs on it.
    """
    import msgspec
    import zstandard

    from foundryrt.bundle.layout import HEADER_BYTES, Codec, unpack_header, unpack_table
    from foundryrt.bundle.schema import SectionKind
    from foundryrt.errors import FoundryError

    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            header = unpack_header(file.read(HEADER_BYTES), size)
            file.seek(header.table_offset)
            for section in unpack_table(file.read(header.table_bytes), header):
                if section.kind == SectionKind.MANIFEST:
                    file.seek(section.offset)
                    data = file.read(section.stored)
                    if section.codec == Codec.ZSTD:
                        data = zstandard.decompress(data, max_output_size=64 << 20)
                    return str(msgspec.msgpack.decode(data)["target"])
    except (OSError, FoundryError, LookupError, TypeError, ValueError):
        return ""  # msgspec's errors are ValueErrors
    except zstandard.ZstdError:
        return ""
    return ""


def main() -> None:
    """Run the command; a cuda bundle's device starts meanwhile."""
    bundle = next((word for word in sys.argv[2:] if word.endswith(".fdy")), "")
    if "://" in bundle:
        from foundryrt.errors import FoundryError

        try:
            from foundryrt.remote.copies import complete_copy

            bundle = str(complete_copy(bundle))
        except FoundryError:
            bundle = ""  # A setting that cannot be: opening the bundle says which.
    if sys.argv[1:2] in (["run"], ["serve"]) and bundle and _target(bundle) == "cuda":
        from foundryrt.cuda import early

        early.begin()
    from foundryrt import cli

    cli.main()
