"""A byte-level BPE tokenizer from GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from foundryrt.errors import UsageError
from parse_runtime.text.tokenizer import package_reads

_CONTROL, _USER_DEFINED = 3, 4
# The published patterns of the models' own tokenizer.json files; they differ in runs of digits.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS = {"qwen2": r"\p{N}", "llama-bpe": r"\p{N}{1,3}"}


def tokenizer_from_gguf(metadata: Mapping[str, Any], where: str) -> str:
    """The tokenizer as tokenizer.json text.

    UsageError for another kind of tokenizer than byte-level BPE, or an unknown pre-tokenizer.
    """

    def need(name: str) -> Any:
        key = f"tokenizer.ggml.{name}"
        if key not in metadata:
            raise UsageError(f"{where}: {key} is missing")
        return metadata[key]

    kind = need("model")
    if kind != "gpt2":
        raise UsageError(
            f"{where}: tokenizer {kind!r} is not supported, only byte-level BPE ('gpt2') is; "
            "take the model's Hugging Face folder"
        )
    name = str(need("pre"))
    tokens = [str(token) for token in need("tokens")]
    # The package refuses a merge that has no two parts.
    merges = cast(
        list[tuple[str, str]], [tuple(str(merge).split(" ", 1)) for merge in need("merges")]
    )
    kinds = list(need("token_type"))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    with package_reads(f"{where}: its tokenizer is damaged"):
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name == "llama-bpe")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(name, where)
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    return str(tokenizer.to_str())


def _pre_tokenizer(name: str, where: str) -> Any:
    if name in ("smollm", "gpt-2"):
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if name == "gpt-2":
            return byte_level
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if name not in _DIGITS:
        raise UsageError(
            f"{where}: pre-tokenizer {name!r} is not supported, only smollm, gpt-2, "
            f"{', '.join(_DIGITS)} are; take the model's Hugging Face folder"
        )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(_PATTERN.replace("DIGITS", _DIGITS[name])), behavior="isolated", invert=False
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
