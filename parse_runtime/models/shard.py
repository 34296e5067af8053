"""What one of several ranks has of a model: its heads, its MLP's width, its experts, its tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from foundryrt.bundle.ranks import MOST
from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig


@dataclass(frozen=True)
class Shard:
    """The equal parts of `world` ranks of a model; UsageError where it has none.

    Query heads, the width of MLPs, experts and the vocabulary are divided in the order of ranks. A
    key-value head is on every rank that has a query head of its group.
    """

    whole: ModelConfig
    world: int

    def __post_init__(self) -> None:
        if not 1 <= self.world <= MOST:
            raise UsageError(f"tp {self.world}: from 1 to {MOST} ranks share a model")
        if problem := _refused(self.whole, self.world):
            possible = [str(n) for n in range(1, MOST + 1) if not _refused(self.whole, n)]
            raise UsageError(f"tp {self.world}: {problem}; possible: {', '.join(possible)}")

    @property
    def config(self) -> ModelConfig:
        """The configuration that a rank computes by: heads and width of MLPs are its own."""
        c, world = self.whole, self.world
        return replace(
            c,
            heads=c.heads // world,
            kv_heads=max(c.kv_heads // world, 1),
            intermediate=c.intermediate // world if _dense(c) else c.intermediate,
        )

    @property
    def experts(self) -> int:
        """Experts of a rank, which it has whole."""
        return self.whole.experts // self.world

    @property
    def vocab(self) -> int:
        """Rows of a rank's embedding and output table: the last ranks may have too many."""
        return -(-self.whole.vocab // self.world)

    def first_kv_head(self, rank: int) -> int:
        """The first of a rank's key-value heads."""
        return rank * self.whole.kv_heads // self.world


def _dense(c: ModelConfig) -> bool:
    """Whether any layer has a plain MLP."""
    return not all(c.is_mixture(layer) for layer in range(c.layers))


def _refused(c: ModelConfig, world: int) -> str:
    """What of a model cannot be divided among so many ranks; empty where everything can."""
    if c.heads % world:
        return f"{c.heads} heads do not divide among {world} ranks"
    if c.kv_heads % world and world % c.kv_heads:
        return f"{c.kv_heads} key-value heads neither divide among {world} ranks nor the reverse"
    if _dense(c) and c.intermediate % world:
        return f"an MLP of width {c.intermediate} does not divide among {world} ranks"
    if c.experts % world:
        return f"{c.experts} experts do not divide among {world} ranks"
    return _inside_blocks(c, world) if c.scale_block and world > 1 else ""


def _inside_blocks(c: ModelConfig, world: int) -> str:
    """Where ranks' parts of FP8 weights would begin inside a block, whose scale is one."""
    # A rank's query heads are several times its key-value heads.
    parts = {
        "key-value heads": max(c.kv_heads // world, 1) * c.head_dim,
        "an MLP": c.intermediate // world if _dense(c) else 0,
    }
    for name, rows in parts.items():
        if rows % c.scale_block:
            return f"a rank's {rows} rows of {name} do not make whole blocks of {c.scale_block}"
    return ""
