"""Bundles on other machines: ranges of bytes, and local copies of what was fetched."""
