"""Which of a command's arguments is its bundle; needed before the command can read them."""

from __future__ import annotations


def bundle_word(words: list[str]) -> int:
    """Where in a command's arguments its bundle is; -1 where none can be it.

    A workload's options may stand before it, and what they take is not known before the bundle is
    open: so the bundle is the first word where that is no option, else the first `.fdy` that
    follows no option, else the first `.fdy`, else the first word that follows no option.
    """

    def option(index: int) -> bool:
        word = words[index] if index >= 0 else ""
        return word.startswith("-") and not word[1:2].isdigit() and "=" not in word

    free = [i for i in range(len(words)) if not words[i].startswith("-") and not option(i - 1)]
    named = [i for i, word in enumerate(words) if word.endswith(".fdy") and word[0] != "-"]
    first = [0] if words and not words[0].startswith("-") else []
    return [*first, *(i for i in named if i in free), *named, *free, -1][0]


def bundle_first(words: list[str]) -> list[str]:
    """Words of `run` and `serve` with the bundle before all options.

    Workload options may come anywhere; the parser, which does not know them, wants them last.
    """
    place = bundle_word(words[1:])
    if words[:1] not in (["run"], ["serve"]) or place < 0:
        return words
    rest = words[1:]
    return [words[0], rest[place], *rest[:place], *rest[place + 1 :]]
