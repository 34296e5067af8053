"""Cold start: a process without torch that materializes a bundle, beside torch capturing."""
