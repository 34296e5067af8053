"""What rank 0 tells the others through the ring: what it does itself, in the same order."""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """What a record asks for."""

    LAUNCH = 1
    """The graph `index`."""
    WRITE = 2
    """Bytes of the tensor `index`, from byte `value` on; one of several parts, or all."""
    SEED = 3
    """`value`, modulo 2^64."""
    LOAD_WEIGHTS = 4
    """`value` is 1 where their contents are to be checked, by ranks that read the files whose
    states follow (`weight_files.packed`)."""
    WAIT = 5
    """For every graph, in the background; stage `waited` says that they are ready."""
    CLOSE = 6
