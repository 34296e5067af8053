"""Random captures whose words are known: addresses, values and noise at chosen bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from foundryc.capture import Capture, RegionImage
from foundryc.template import GraphTable
from foundryrt.bundle.schema import REGIONS, Function, Relocation, Requirements, Tensor, Variable
from foundryrt.bundle.tables import NO_FUNCTION

ARENA = 0x600000000000
KERNEL, MEMCPY, MEMSET = 1, 2, 3
PAGE = 2 << 20
FIRST, AGAIN, MOVED = range(3)


@dataclass(frozen=True)
class Layout:
    """Names, sizes and owners of regions, and their bases in three captures."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    bases: tuple[tuple[int, ...], ...]

    def images(self, capture: int) -> list[RegionImage]:
        return [
            RegionImage(name, base, size, owner="" if name in REGIONS else "a library")
            for name, size, base in zip(self.names, self.sizes, self.bases[capture], strict=True)
        ]


@dataclass(frozen=True)
class Word:
    """`region` and `offset` of an address, or `value`; bytes where `noise` is 1 are noise.

    `audits` say in which captures the audit takes it for an address, right or wrong.
    """

    value: int = 0
    region: int = -1
    offset: int = 0
    noise: tuple[int, ...] = (0,) * 8
    audits: tuple[int, ...] = (0, 0, 0)
    looks_like: int = -1
    """A region that the word is an address of in the first capture, though it is none."""

    def values(self, layout: Layout, noise: np.random.Generator) -> list[int]:
        """In the three captures."""
        if self.region >= 0:
            return [bases[self.region] + self.offset for bases in layout.bases]
        value = self.value
        if self.looks_like >= 0:
            value = layout.bases[FIRST][self.looks_like] + self.offset
        first, moved = noise.integers(0, 256, (2, 8), np.uint8)
        again = first ^ noise.integers(1, 256, 8, np.uint8)
        plain = np.frombuffer(value.to_bytes(8, "little"), np.uint8)
        return [
            int.from_bytes(np.where(self.noise, own, plain).astype(np.uint8).tobytes(), "little")
            for own in (first, again, moved)
        ]

    def audited(self, capture: int) -> int:
        """The region that the audit names."""
        return max(self.region, self.looks_like) if self.audits[capture] else -1

    def wanted(self, result: Sequence[RegionImage], layout: Layout) -> int:
        """In the bundle."""
        if self.region >= 0:
            return result[self.region].base + self.offset
        value = self.value
        if self.looks_like >= 0:
            value = layout.bases[FIRST][self.looks_like] + self.offset
        kept = np.array([0 if noisy else 255 for noisy in self.noise], np.uint8)
        return value & int.from_bytes(kept.tobytes(), "little")


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """state and io, and up to three foreign regions; every one has a move of its own."""
    foreign = draw(st.integers(0, 3))
    sizes = [16 * draw(st.integers(1, 1 << 16)) for _ in range(2 + foreign)]
    amounts = draw(st.permutations(range(1, 3 + foreign)))
    low = 4096 * draw(st.integers(0, 7))
    first = [ARENA, ARENA + (256 << 30)]
    moved = [base + (amount << 33) + low for base, amount in zip(first, amounts, strict=False)]
    bases = [first, list(first), moved]
    same = draw(st.booleans())
    for index in range(foreign):
        within = 16 * draw(st.integers(0, PAGE // 16 - 1))
        for capture in range(3):
            place = amounts[2 + index] + 7 * (0 if same and capture == AGAIN else capture)
            bases[capture].append((0x7F00 + place << 32) + (index << 28) + within)
    names = ("state", "io", *(f"foreign {index}" for index in range(foreign)))
    return Layout(names, tuple(sizes), tuple(map(tuple, bases)))


@st.composite
def words(draw: st.DrawFn, layout: Layout) -> Word:
    """A value, an address, noise over a value, a value that looks like an address, or residue."""
    kind = draw(st.sampled_from(["value", "address", "address", "noise", "looks", "stale"]))
    value = draw(st.sampled_from([0, 1, 4096, 2**63]) | st.integers(0, 2**64 - 1))
    some = st.tuples(*[st.integers(0, 1)] * 8)
    if kind == "value":
        return Word(value)
    if kind == "noise":
        return Word(value, noise=draw(some))
    region = draw(st.integers(0, len(layout.names) - 1 if kind == "address" else 1))
    offset = draw(st.sampled_from([0, layout.sizes[region]]) | st.integers(0, layout.sizes[region]))
    if kind == "address":
        return Word(region=region, offset=offset, audits=(1, 1, 1))
    if kind == "looks":
        return Word(looks_like=region, offset=offset, audits=(1, 1, 0))
    return Word(looks_like=region, offset=offset, audits=(1, 0, 0), noise=draw(some))


Nodes = list[tuple[int, list[Word]]]


@st.composite
def graphs(draw: st.DrawFn, layout: Layout) -> Nodes:
    """Kinds of nodes, and their words: launch dimensions first, or addresses of a copy."""
    nodes: Nodes = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([KERNEL, KERNEL, MEMCPY, MEMSET]))
        ends = {KERNEL: 0, MEMCPY: 2, MEMSET: 1}[kind]
        own = []
        for _ in range(ends):
            region = draw(st.integers(0, len(layout.names) - 1))
            own.append(Word(region=region, offset=0, audits=(1, 1, 1)))
        own += [Word(7)] * (15 if kind == MEMCPY else 6 if kind == MEMSET else 4)
        if kind == KERNEL:
            own += draw(st.lists(words(layout), max_size=6))
        nodes.append((kind, own[: {MEMCPY: 15, MEMSET: 6}.get(kind)]))
    return nodes


def skeleton(count: int) -> bytes:
    """Arguments of 12 and 4 bytes in turn, over `count` words."""
    pairs = [((at, 12), (at + 12, 4)) for at in range(0, 8 * count - 8, 16)]
    arguments = [argument for pair in pairs for argument in pair]
    head = np.array([8 * count, len(arguments)], "<u4").tobytes()
    return head + np.array(arguments, "<u4").tobytes()


@dataclass(frozen=True)
class Plan:
    """All words of a capture, known."""

    layout: Layout
    nodes: Nodes
    contents: dict[int, list[Word]]
    variable: list[Word]

    def captures(self, seed: int) -> list[Capture]:
        """The three captures; noise follows from `seed`."""
        noise = np.random.default_rng(seed)
        parameters = realized([w for _, own in self.nodes for w in own], self.layout, noise)
        contents = {r: realized(w, self.layout, noise) for r, w in self.contents.items()}
        variable = realized(self.variable, self.layout, noise)
        return [self._capture(c, parameters[c], {r: v[c] for r, v in contents.items()}, variable[c])
                for c in range(3)]  # fmt: skip

    def _capture(self, capture, parameters, contents, variable) -> Capture:
        images = self.layout.images(capture)
        for region, data in contents.items():
            image = images[region]
            raw = data.tobytes()
            parts = [raw[:5], raw[5:]] if capture else [raw]
            images[region] = RegionImage(
                image.name, image.base, image.size, lambda parts=parts: parts,
                owner=image.owner, relocations=relocations(self.contents[region], capture),
            )  # fmt: skip
        return Capture(
            target="cuda",
            requirements=Requirements(memory=1 << 40, architecture="sm_90", driver=13000),
            producer={"foundryc": "1"},
            regions=images,
            tensors=[Tensor(name="x", region=1, offset=0, dtype="uint8", shape=(8,), strides=(1,),
                            role="input")],
            functions=[Function(name="kernel_of_nodes", kernel=0)],
            graphs=[self._graph(capture, parameters)],
            kernels=[b"a binary"],
            variables=[Variable(kernel=0, name="v", data=variable.tobytes(),
                                relocations=relocations(self.variable, capture))],
        )  # fmt: skip

    def _graph(self, capture: int, parameters: npt.NDArray[np.uint64]) -> GraphTable:
        lengths = [len(own) for _, own in self.nodes]
        table = GraphTable.of_nodes(
            "g",
            {"batch": 8},
            kinds=[kind for kind, _ in self.nodes],
            functions=[0 if kind == KERNEL else NO_FUNCTION for kind, _ in self.nodes],
            skeletons=[skeleton(len(own) - 4) if kind == KERNEL else b""
                       for kind, own in self.nodes],
            parameters=np.split(parameters, np.cumsum(lengths)[:-1]),
        )  # fmt: skip
        found = [w.audited(capture) for _, own in self.nodes for w in own]
        at = [i for i, region in enumerate(found) if region >= 0]
        columns = table.columns | {
            "relocation_word": np.array(at, "<u4"),
            "relocation_region": np.array([found[i] for i in at], "<u1"),
        }
        return GraphTable(table.name, table.key, columns)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    layout = draw(layouts())
    some = st.lists(words(layout), max_size=5)
    contents = {r: draw(some) for r in range(len(layout.names)) if layout.sizes[r] >= 40}
    variable = draw(st.lists(words(layout), min_size=1, max_size=3))
    return Plan(layout, draw(graphs(layout)), contents, variable)


def realized(plan: Sequence[Word], layout: Layout, noise: np.random.Generator) -> npt.NDArray:
    """Words of three captures, uint64 [3, n]."""
    values = [word.values(layout, noise) for word in plan]
    return np.array(values, np.uint64).reshape(len(plan), 3).T.copy()


def relocations(plan: Sequence[Word], capture: int) -> tuple[Relocation, ...]:
    return tuple(
        Relocation(offset=8 * i, region=word.audited(capture))
        for i, word in enumerate(plan)
        if word.audited(capture) >= 0
    )
