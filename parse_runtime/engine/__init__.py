"""Answers: from a prompt through drafting, judging and resuming to text; no model is touched."""
