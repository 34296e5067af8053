"""Choosing tokens on the host, for requests whose fields need logits outside the graphs; numpy."""
