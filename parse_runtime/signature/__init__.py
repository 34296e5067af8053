"""What capture and run agree on: sizes, rows, inputs and outputs of every pass; without torch."""
