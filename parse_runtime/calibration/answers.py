"""Questions whose answers can be checked, and whether a text gives the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class Question:
    """What is asked; `answer` is a number, or texts of which one must occur, parted by |.

    An empty answer is not known: then it is what the target model says by itself.
    """

    prompt: str
    answer: str = ""


def gives(text: str, answer: str) -> bool:
    """Whether a text ends with the number `answer`, or has one of its texts as words."""
    if (wanted := _number(answer)) is not None:
        return last_number(text) == wanted
    words = _words(text)
    return any(f" {_words(one)} " in f" {words} " for one in answer.split("|"))


def agree(text: str, other: str) -> bool:
    """Whether two texts end with the same number, or, where neither has one, are the same words."""
    numbers = last_number(text), last_number(other)
    if numbers != (None, None):
        return numbers[0] == numbers[1]
    return _words(text) == _words(other)


def is_right(text: str, answer: str, own: str) -> bool:
    """Whether a text gives the answer, or, where none is known, agrees with the target's own."""
    return gives(text, answer) if answer else agree(text, own)


def last_number(text: str) -> float | None:
    """The number that a text ends with; None where it has none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _number(answer: str) -> float | None:
    return float(answer.replace(",", "")) if _NUMBER.fullmatch(answer) else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))
