"""Entry point of `foundryrt`: begins the driver's start before the command's imports."""

from __future__ import annotations

import os
import sys

from foundryrt.arguments import bundle_word
from foundryrt.peek import on_device
from foundryrt.ranks.asked import LAUNCHED, AskedRanks
from foundryrt.streams import open_streams
from foundryrt.timeline import mark


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


def _ranks(words: list[str]) -> AskedRanks | None:
    """The ranks that the arguments ask for, or that a launcher may have started."""
    asked = any(word.partition("=")[0] == "--tp" for word in words)
    if not asked and not any(name in os.environ for name in LAUNCHED):
        return None
    return AskedRanks.of(words)


def main() -> None:
    """Run the command; a cuda bundle's device starts meanwhile."""
    try:
        _start()
    except KeyboardInterrupt:  # the command's imports take a while
        sys.exit(130)


def _start() -> None:
    mark("python")
    open_streams()
    words = sys.argv[2:]
    if sys.argv[1:2] in (["run"], ["serve"]) and "--model" in " ".join(words):
        words = _with_bundle(sys.argv[1], words)
        sys.argv[2:] = words
    if sys.argv[1:2] in (["run"], ["serve"]) and "--standby" in words:
        from foundryrt.standby import client, wire

        words.remove("--standby")
        sys.exit(client.hand_over(wire.path(), [sys.argv[1], *words]))
    place = bundle_word(words)
    bundle = "" if place < 0 else words[place]
    if "://" in bundle:
        from foundryrt.errors import FoundryError

        try:
            from foundryrt.remote.copies import complete_copy

            bundle = str(complete_copy(bundle))
        except FoundryError:
            bundle = ""  # A setting that cannot be: opening the bundle says which.
    if sys.argv[1:2] in (["run"], ["serve"]) and bundle:
        ranks = _ranks(words)
        if ranks is not None:
            ranks.begin(words[place])  # before the driver, with which this process cannot be forked
        device = 0 if ranks is None else ranks.device()
        if device is not None and on_device(bundle):
            from foundryrt.cuda import early

            early.begin(device)
    from foundryrt import cli

    mark("command")
    cli.main()
