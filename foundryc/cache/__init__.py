"""Bundles by content key: computed without torch, fetched verified, built once."""
