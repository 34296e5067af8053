"""Tiles that an experiment asks for; goes when it has been measured."""

from __future__ import annotations

import os

ON: dict[str, str] = {}


def turn(words: str) -> None:
    """`gate=32/128/1/6/6;sent;span=128`: columns, K, spans, stages and held tiles of a product."""
    ON.clear()
    for word in filter(None, words.split(";")):
        name, _, value = word.partition("=")
        ON[name] = value


turn(os.environ.get("FOUNDRY_TRIAL", ""))
