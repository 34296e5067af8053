"""The receiver's front end: from samples off the air to the frames that the receiver takes."""

OVERSAMPLING = 2
"""Samples a symbol that the front end works at; others are resampled."""
