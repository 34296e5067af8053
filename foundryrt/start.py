"""Entry point of `foundryrt`: begins the driver's start before the command's imports."""

from __future__ import annotations

import os
import sys

from foundryrt.arguments import bundle_word

_ENTRY = 128  # bytes of a section's entry in the table, of which the first two are its kind
_KERNEL = (4).to_bytes(2, "little")
_MAX_SECTIONS = 1 << 16


def _on_device(path: str) -> bool:
    """Whether the bundle at `path` holds kernel binaries, as those of the cuda target do.

    Only an early start of the driver depends on it, so the three fields of docs/format.md are read
    unchecked: importing the code that checks them would delay the driver.
    """
    if not os.path.isfile(path):
        return False  # a pipe would be waited for
    try:
        with open(path, "rb") as file:
            header = file.read(16)
            sections = int.from_bytes(header[4:8], "little")
            file.seek(int.from_bytes(header[8:16], "little"))
            table = file.read(_ENTRY * min(sections, _MAX_SECTIONS))
    except (OSError, ValueError):
        return False  # opening the bundle says why
    kinds = {table[start : start + 2] for start in range(0, len(table), _ENTRY)}
    return header.startswith(b"FDY") and _KERNEL in kinds


def _with_bundle(command: str, words: list[str]) -> list[str]:
    """The command's arguments with the bundle of the model that they name, if they do."""
    from foundryrt import on_demand

    if bundle_word(words) >= 0 or not on_demand.asked(words):
        return words
    from foundryrt.console import note
    from foundryrt.errors import FoundryError

    try:
        return on_demand.with_bundle(command, words)
    except FoundryError as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    """Run the command; a cuda bundle's device starts meanwhile."""
    words = sys.argv[2:]
    if sys.argv[1:2] in (["run"], ["serve"]) and "--model" in " ".join(words):
        words = _with_bundle(sys.argv[1], words)
        sys.argv[2:] = words
    if sys.argv[1:2] == ["run"] and "--standby" in words:
        from foundryrt.standby import client, wire

        words.remove("--standby")
        sys.exit(client.hand_over(wire.path(), ["run", *words]))
    place = bundle_word(words)
    bundle = "" if place < 0 else words[place]
    if "://" in bundle:
        from foundryrt.errors import FoundryError

        try:
            from foundryrt.remote.copies import complete_copy

            bundle = str(complete_copy(bundle))
        except FoundryError:
            bundle = ""  # A setting that cannot be: opening the bundle says which.
    if sys.argv[1:2] in (["run"], ["serve"]) and bundle and _on_device(bundle):
        from foundryrt.cuda import early

        early.begin()
    from foundryrt import cli

    cli.main()
