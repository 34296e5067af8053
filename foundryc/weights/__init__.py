"""Weights at capture: what the user's files hold, and recipes that fill tensors from them."""

from foundryc.weights.files import StoredTensor, TensorFile
from foundryc.weights.recipes import build_weights, distinct_names
from foundryc.weights.slices import WeightSlice, cut, in_blocks, materialize, whole

__all__ = [
    "StoredTensor",
    "TensorFile",
    "WeightSlice",
    "build_weights",
    "cut",
    "distinct_names",
    "in_blocks",
    "materialize",
    "whole",
]
