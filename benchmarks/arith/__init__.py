"""A synthetic arithmetic task with worked solutions, and a pair of models trained on it."""
