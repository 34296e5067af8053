"""Benchmarks and their targets: `python -m benchmarks list` (benchmarks/README.md)."""
