"""Several ranks, each a process on a GPU of its own."""
