"""What a serving replica carries."""
