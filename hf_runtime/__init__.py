"""Causal language models of transformers as they are, over a static KV cache (docs/hf.md)."""

from foundryrt import __version__

__all__ = ["__version__"]
