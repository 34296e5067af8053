"""Parameters of a decoder as slices of the user's weight files."""
