"""Frames on their way: where they come from, the stream through the receiver, its results."""
