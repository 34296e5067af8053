"""Blocks of a cache: no owner loses one, none has two contents, and what is kept is found again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parse_runtime.engine.blocks import BlockPool, contents
from parse_runtime.engine.tables import Tables
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.sizes import BLOCK, PassSizes

SLOTS, MAX_LEN, TOKENS = 4, 100, 12 * BLOCK


class Slots(RuleBasedStateMachine):
    """Slots that begin, grow and end; `held` has the tokens that each was given.

    `written` has what the rows of each block were computed from.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = PassSizes(max_len=MAX_LEN, slots=SLOTS, kv_tokens=TOKENS, verify=((20, 2),))
        self.sizes, self.tables = sizes, Tables(ModelSignature("m", sizes))
        self.held: dict[int, list[int]] = {}
        self.written: dict[tuple[int, int], tuple[int, ...]] = {}

    def write(self, slot: int, start: int) -> None:
        held = self.held[slot]
        for row in range(start, len(held)):
            place = int(self.tables.values[slot, row // BLOCK]), row % BLOCK
            self.written[place] = tuple(held[: row + 1])

    @precondition(lambda self: len(self.held) < SLOTS)
    @rule(kind=st.integers(0, 2), size=st.integers(1, MAX_LEN), tail=st.integers(0, 40),
          step=st.sampled_from([16, 32]))  # fmt: skip
    def begin(self, kind: int, size: int, tail: int, step: int) -> None:
        slot = next(slot for slot in range(SLOTS) if slot not in self.held)
        tokens = ([kind] * size + [9] * tail)[:MAX_LEN]
        names = list(contents(tokens[: (len(tokens) - 1) // step * step]))
        found = self.tables.found(names, step)
        shared = self.tables.share(slot, found)
        assert shared % step == 0 and shared < len(tokens)
        if not self.tables.reserve(slot, len(tokens)):
            assert self.tables.pool.free < -(-len(tokens) // BLOCK) - len(found)
            self.tables.release(slot)
            return
        self.held[slot] = tokens
        self.write(slot, shared)
        self.tables.publish(slot, names)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), more=st.integers(1, 40))
    def grow(self, data: st.DataObject, more: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        held, free = self.held[slot], self.tables.pool.free
        end = min(len(held) + more, MAX_LEN)
        missing = -(-end // BLOCK) - -(-len(held) // BLOCK)
        assert self.tables.reserve(slot, end) == (missing <= free)
        if missing <= free:
            start = len(held)
            held += [slot + 20] * (end - start)
            self.write(slot, start)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[slot]
        self.tables.release(slot)
        assert not self.tables.values[slot, : self.sizes.sequence_blocks].any()

    @invariant()
    def every_row_is_as_it_was_written(self) -> None:
        for slot, held in self.held.items():
            for row in range(len(held)):
                place = int(self.tables.values[slot, row // BLOCK]), row % BLOCK
                assert self.written[place] == tuple(held[: row + 1])

    @invariant()
    def blocks_are_counted(self) -> None:
        pool, sizes = self.tables.pool, self.sizes
        owned = [
            int(block) for slot, held in self.held.items()
            for block in self.tables.values[slot, : -(-len(held) // BLOCK)]
        ]  # fmt: skip
        assert pool.used == len(set(owned)) and pool.used + pool.free == pool.count == 12
        assert pool.shared == sum(owned.count(block) > 1 for block in set(owned))
        # Neither the block that stands for none nor scratch is given out.
        assert all(sizes.fixed_blocks <= block < sizes.fixed_blocks + 12 for block in owned)


TestSlots = Slots.TestCase


@given(st.lists(st.integers(0, 3), max_size=70), st.lists(st.integers(0, 3), max_size=70))
def test_contents_are_equal_where_all_before_is(a: list[int], b: list[int]) -> None:
    alike = [x == y for x, y in zip(contents(a), contents(b), strict=False)]
    expected = [
        a[: end * BLOCK] == b[: end * BLOCK]
        for end in range(1, min(len(a), len(b)) // BLOCK + 1)
    ]  # fmt: skip
    assert alike == expected and len(list(contents(a))) == len(a) // BLOCK
    assert not {*contents(a)} & {*contents(a, 64)}


def test_what_left_longest_ago_is_taken_first() -> None:
    pool = BlockPool(3, 3)
    blocks = [pool.take() for _ in range(3)]
    assert sorted(blocks) == [3, 4, 5] and pool.free == 0
    for block, content in zip(blocks, (b"a", b"b", b""), strict=True):
        if content:
            pool.publish(block, content)
        pool.give_back(block)
    assert pool.take() == blocks[2]  # blank
    pool.hold(blocks[0])
    pool.give_back(blocks[0])
    assert pool.take() == blocks[1] and pool.find(b"b") is None and pool.find(b"a") == blocks[0]


def test_a_bundle_without_tables_shares_nothing() -> None:
    sizes = PassSizes(max_len=MAX_LEN, slots=2, kv_tokens=None)
    tables = Tables(ModelSignature("m", sizes))
    assert tables.ample and all(tables.reserve(slot, MAX_LEN) for slot in range(2))
    names = list(contents([1] * 64))
    tables.publish(0, names)
    assert tables.found(names, BLOCK) == []
    assert (sizes.scratch_row, sizes.slot_rows) == (MAX_LEN + 1, MAX_LEN + 1)
