"""Text from outside, such as names in a bundle, made harmless on its only way to a terminal."""

from __future__ import annotations

_JOINERS = "\t\u200c\u200d\u00ad"
"""Tabs, and what emoji and some scripts join or part letters with."""
_LONGEST = 100
"""Letters of a name that an error's line shows."""


def printable(value: object) -> str:
    """`str(value)` on one line, without a character that a terminal or a reader's eye obeys.

    Control characters, line breaks, marks that turn the direction of writing and lone surrogates
    are shown as Python writes them: `\\x1b`, `\\n`, `\\u202e`, `\\udcff`.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def harmless(text: str) -> str:
    """`text` with its lines and its spaces of any kind, and nothing else that a terminal obeys."""
    return "\n".join(map(_harmless_line, text.split("\n")))


def quoted(name: object) -> str:
    """A name for an error's line: in quotes, of a very long one the beginning.

    C++ gives kernels names of tens of kilobytes, and a damaged bundle may hold any.
    """
    text = str(name)
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def reason(error: BaseException) -> str:
    """Kind and text of an exception for an error's line, the beginning of a long one.

    Its `repr` may hold all bytes of a file that is no text.
    """
    text = printable(f"{type(error).__name__}: {error}")
    return text if len(text) <= 2 * _LONGEST else text[: 2 * _LONGEST - 1] + "…"


def size(count: int | None) -> str:
    """Bytes for people: `5.1 GB`, `unknown` for None."""
    if count is None:
        return "unknown"
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}" if units[0] != "bytes" else f"{count} bytes"


def _harmless_line(line: str) -> str:
    if line.isprintable():
        return line
    from unicodedata import category  # Most text needs none of it.

    return "".join(
        letter if letter.isprintable() or letter in _JOINERS or category(letter) == "Zs"
        else _escaped(letter)
        for letter in line
    )  # fmt: skip


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
