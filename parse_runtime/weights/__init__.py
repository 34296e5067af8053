"""Parameters of a decoder as pieces of the user's weight files."""
