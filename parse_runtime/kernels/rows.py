"""Up to how many rows a product is bound by the memory of its weights; also for runs of bundles."""

STREAMED_ROWS = 64
"""Above so many rows a product is bound by arithmetic, and the library's is used."""
