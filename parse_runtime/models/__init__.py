"""Decoder-only language models with static shapes."""
