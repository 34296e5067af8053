"""Where a draft is cut, how verdicts choose among the cuts, and the judge's default words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from foundryrt.errors import UsageError

PROMPT = "Is your answer so far correct, even if it is unfinished? Reply with one word: Yes or No."
CUTS = ("stride", "sentence")


def stride_cuts(length: int, stride: int) -> list[int]:
    """stride, 2 stride, ... below `length`, and `length` itself."""
    return [*range(stride, length, stride), length] if length else []


def sentence_cuts(pieces: Sequence[str], stride: int) -> list[int]:
    """Cuts after tokens that end a sentence or a line, at least `stride` tokens apart, and the end.

    `pieces` is the text of each token of the draft.
    """
    cuts: list[int] = []
    for end, piece in enumerate(pieces[:-1], start=1):
        closes = "\n" in piece or piece.rstrip().endswith((".", "!", "?"))
        if closes and end - (cuts[-1] if cuts else 0) >= stride:
            cuts.append(end)
    return [*cuts, len(pieces)] if pieces else []


def first_failure(cuts: Sequence[int], verdicts: Sequence[float], threshold: float) -> int:
    """The largest cut such that it and every cut before it is accepted; 0 for none."""
    accepted = 0
    for cut, verdict in zip(cuts, verdicts, strict=True):
        if not verdict >= threshold:
            break
        accepted = cut
    return accepted


def longest_accepted(cuts: Sequence[int], verdicts: Sequence[float], threshold: float) -> int:
    """The largest accepted cut, whatever came before it; 0 for none."""
    pairs = zip(cuts, verdicts, strict=True)
    return max((cut for cut, verdict in pairs if verdict >= threshold), default=0)


Selection = Callable[[Sequence[int], Sequence[float], float], int]
SELECTIONS: dict[str, Selection] = {
    "first-failure": first_failure,
    "longest-accepted": longest_accepted,
}


def selection(name: str) -> Selection:
    """The rule by name; UsageError for another."""
    if name not in SELECTIONS:
        raise UsageError(f"selection {name!r}: one of {', '.join(SELECTIONS)}")
    return SELECTIONS[name]
