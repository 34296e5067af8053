"""Tokenizer and chat template of a made-up model, whose tokens are known texts."""

from __future__ import annotations

import json
from itertools import chain, islice, product
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PIECES = "pieces.json"
"""The text of each token, for the client."""
_PRINTED = [chr(code) for code in range(0x21, 0x7F)]
_TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def write_text(vocab: int, folder: Path) -> None:
    """A byte-level tokenizer: bytes, then pairs and triples of printed characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = ((a, b) for a, b in product(_PRINTED, repeat=2))
    triples = ((a + b, c) for a, b, c in product(_PRINTED, repeat=3))
    merges = list(islice(chain(pairs, triples), vocab - len(alphabet)))
    pieces = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    (folder / PIECES).write_text(json.dumps(pieces))
