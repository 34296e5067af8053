"""Steps of the cold start, each a process of its own."""
