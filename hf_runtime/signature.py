"""What capture and run agree on: names of graphs, tensors and attached files."""

from __future__ import annotations

RESET = "reset"
"""Sets the cache's counters to 0: a new sequence begins."""
FORWARD = "forward"
"""One for each number of tokens, its key: reads them, and predicts the one that follows."""
LOGITS = "logits"
"""Output of a forward graph, [vocabulary], float32: of the last token."""
TOKEN = "token"
"""Output of a forward graph: the most probable token, int64."""
TOKENIZER, CHAT = "tokenizer.json", "chat.json"


def tokens(count: int) -> str:
    """The input of the forward graph of `count` tokens, [1, count], int64."""
    return f"tokens.{count}"
