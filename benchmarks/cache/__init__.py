"""The bundle cache."""
