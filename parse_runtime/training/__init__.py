"""Training of what speeds a model: an EAGLE-3 head on any target, on one GPU."""
