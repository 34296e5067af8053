"""How far verdicts of a pair of models are to be trusted, and what is gained by them."""
