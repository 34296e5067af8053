"""The process of a rank other than 0, as `spawn` starts it: its driver starts before all else."""

from __future__ import annotations

import sys

from foundryrt.peek import on_device
from foundryrt.timeline import mark


def main(words: list[str]) -> None:
    """Begin the driver's start, then import what follows rank 0. The last word is the bundle."""
    given = dict(word[2:].split("=", 1) for word in words[:-1])
    mark("python")
    if on_device(words[-1]):
        from foundryrt.cuda import early

        early.begin(int(given["device"]))
    from foundryrt.ranks.follow import begin

    begin(given, words[-1])


if __name__ == "__main__":
    main(sys.argv[1:])
