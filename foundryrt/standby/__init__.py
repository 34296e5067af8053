"""A process that has started everything but a bundle, and runs commands for others at once."""
