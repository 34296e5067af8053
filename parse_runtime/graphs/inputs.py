"""Prefill and decode passes as arrays: their inputs for some chunks of prompts, for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.signature.passes import PassSignature
from parse_runtime.signature.plan import ALIGNMENT, packed, padded

Inputs = dict[str, NDArray[Any]]
"""Of a pass, by their last names."""


def prefill_inputs(signature: PassSignature, chunks: Sequence[Chunk], max_len: int) -> Inputs:
    """Of `ModelSignature.prefill`, whose rows hold the chunks."""
    inputs = signature.inputs
    count = len(inputs["wanted"].initial)
    parts = [(chunk.tokens, chunk.start) for chunk in chunks]
    plan, (begins, ends) = packed(parts, signature.key["len"], max_len)
    slots = np.zeros(inputs["slots"].shape, np.int64)
    for chunk, begin, end in zip(chunks, begins, ends, strict=True):
        slots[begin // ALIGNMENT : end // ALIGNMENT + 1] = chunk.slot
    # The last one once more, where there are fewer: what is stored twice is the same.
    every = [*range(len(chunks)), *[len(chunks) - 1] * (count - len(chunks))]
    sampling = sampling_inputs([chunks[i].sampling for i in every], count)
    values = {"plan": plan, "slots": slots, "wanted": ends[every], **sampling}
    if "next" in inputs:
        following = [-1 if chunk.following is None else chunk.following for chunk in chunks]
        values["next"] = np.asarray(following, np.int64)[every]
    return values


def decode_inputs(batch: Batch, size: int, max_len: int) -> Inputs:
    """Of `ModelSignature.decode` of `size` sequences."""
    plan = padded(size, max_len)
    here = np.asarray(batch.positions, np.int64)
    plan[:, : len(batch)] = batch.tokens, here, here, here + 1, here
    return {"plan": plan, **batch_inputs(batch, size)}


def mixed_inputs(
    signature: PassSignature, chunks: Sequence[Chunk], batch: Batch, max_len: int
) -> Inputs:
    """Of `ModelSignature.mixed`: a step of the batch, then the chunks."""
    step = decode_inputs(batch, signature.key["batch"], max_len)
    prompts = prefill_inputs(signature, chunks, max_len)
    joined = {
        name: np.concatenate((step[name], prompts[name]), -1)
        for name in ("plan", "sampling", "seeds")
    }
    return {**prompts, **joined, "steps": step["slots"]}


def batch_inputs(batch: Batch, size: int) -> Inputs:
    """`slots` and sampling of a pass of `size` sequences."""
    # Padding goes to the padding row of the first slot.
    slots = np.zeros(size, np.int64)
    slots[: len(batch)] = batch.slots
    return {"slots": slots, **sampling_inputs(batch.samplings, size)}


def sampling_inputs(samplings: Sequence[Sampling], size: int) -> Inputs:
    """`sampling` and `seeds` of `size` rows."""
    values, seeds = np.zeros((2, size), np.float32), np.zeros(size, np.int64)
    values[1] = 1
    for i, sampling in enumerate(samplings):
        values[:, i] = sampling.temperature, sampling.top_p
        seeds[i] = sampling.seed
    return {"sampling": values, "seeds": seeds}
