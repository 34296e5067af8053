"""Text from outside, such as names in a bundle, made harmless for a terminal."""

from __future__ import annotations


def printable(value: object) -> str:
    """`str(value)` on one line, without a character that a terminal or a reader's eye obeys.

    Control characters, line breaks, marks that turn the direction of writing and lone surrogates
    are shown as Python writes them: `\\x1b`, `\\n`, `\\u202e`, `\\udcff`.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
