"""Steps of the benchmarks of several ranks, each a process of its own."""
