"""Replay on the `host` target: one mmapped arena and a list of ATen calls over it."""
