"""`foundryrt run` of a parse bundle: one answer as it comes, or many together."""
