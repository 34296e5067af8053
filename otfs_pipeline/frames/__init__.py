"""Frames: their sources, the stream through the receiver, and the sink of its results."""
