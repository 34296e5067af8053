"""Capture on the `host` target: the tape of ATen calls, the memory plan, their encoding."""
