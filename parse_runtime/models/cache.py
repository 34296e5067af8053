"""Keys and values of a model's sequences, in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parse_runtime.models.config import ModelConfig
from parse_runtime.signature.sizes import BLOCK


@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer: [blocks, layers, 2, BLOCK, kv_heads, head_dim].

    A slot holds one sequence; its row r is row r % BLOCK of block tables[slot, r // BLOCK], and
    `tables` int32 [slots, ceil(rows / BLOCK)] is the caller's business. So is which of the rows
    belong to the sequence: a row is read only where a mask allows it, so a sequence is cropped by
    forgetting its end. Blocks come first: no address inside one depends on how many there are.
    """

    values: Tensor
    tables: Tensor

    @staticmethod
    def apart(like: Tensor, config: ModelConfig, slots: int, rows: int) -> Cache:
        """Zeros of the type and device of `like`: slots one behind the other that share nothing."""
        blocks = -(-rows // BLOCK)
        shape = (slots * blocks, config.layers, 2, BLOCK, config.kv_heads, config.head_dim)
        tables = torch.arange(slots * blocks, dtype=torch.int32, device=like.device)
        return Cache(like.new_zeros(shape), tables.view(slots, blocks))

    def layer(self, index: int) -> Tensor:
        """[2, blocks, BLOCK, kv_heads, head_dim], as paged engines have a layer's cache."""
        return self.values[:, index].transpose(0, 1)
