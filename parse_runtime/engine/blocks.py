"""Blocks of a cache: who holds them, and which still have what somebody may want again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np

from parse_runtime.signature.sizes import BLOCK


def contents(tokens: Sequence[int], computed: int = 0) -> Iterator[bytes]:
    """A name for each whole block of a sequence: of its tokens, and of all before them.

    A digest that nobody can find another preimage of: a prompt must not meet a stranger's block.
    `computed` tells ways apart in which the same tokens were computed.
    """
    before = computed.to_bytes(8)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        block = np.asarray(tokens[end - BLOCK : end], np.int64).tobytes()
        before = blake2b(before + block, digest_size=32).digest()
        yield before


class BlockPool:
    """`count` blocks, numbered from `first` on; each has as many owners as there are takers.

    One without owners keeps its contents until it is taken for others: blank ones are taken first,
    then the one whose last owner left longest ago.
    """

    def __init__(self, first: int, count: int) -> None:
        self.count = count
        self.shared = 0
        """Blocks that several own."""
        self._owners: dict[int, int] = {}
        self._blank = list(range(first + count - 1, first - 1, -1))
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        """Those without owners that have contents."""
        self._found: dict[bytes, int] = {}
        self._contents: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks without owners."""
        return len(self._blank) + len(self._kept)

    @property
    def used(self) -> int:
        """Blocks with owners."""
        return len(self._owners)

    def take(self) -> int:
        """A block without owners, of whatever contents; IndexError where there is none."""
        if self._blank or not self._kept:
            block = self._blank.pop()
        else:
            block, content = self._kept.popitem(last=False)
            del self._found[content], self._contents[block]
        self._owners[block] = 1
        return block

    def owned(self, block: int) -> bool:
        """Whether somebody owns it."""
        return block in self._owners

    def find(self, content: bytes) -> int | None:
        """The block of these contents."""
        return self._found.get(content)

    def hold(self, block: int) -> None:
        """One more owner of a block that was found."""
        self._kept.pop(block, None)
        self._owners[block] = self._owners.get(block, 0) + 1
        self.shared += self._owners[block] == 2

    def publish(self, block: int, content: bytes) -> None:
        """An owned block has these contents, and nobody changes them; the first such is found."""
        if content not in self._found and block not in self._contents:
            self._found[content], self._contents[block] = block, content

    def give_back(self, block: int) -> None:
        """One owner less."""
        self._owners[block] -= 1
        self.shared -= self._owners[block] == 1
        if not self._owners[block]:
            del self._owners[block]
            if block in self._contents:
                self._kept[block] = self._contents[block]
            else:
                self._blank.append(block)
