"""Input, output and errors of a process that was started with some of them closed."""

from __future__ import annotations

import os


def open_streams() -> None:
    """Have all three be open, so that no other file, such as a socket, gets the number of one.

    Of one that was closed nothing can be read, and writing to it fails. Python's own object for it
    stays None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # gets the lowest number that is free
