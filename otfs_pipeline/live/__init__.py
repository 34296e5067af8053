"""A run while it goes on, for people and for programs: a page, Prometheus metrics, JSON lines."""
