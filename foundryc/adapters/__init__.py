"""Engines of others: their graphs captured into bundles, and taken from bundles."""
