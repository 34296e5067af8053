"""Where a draft is cut, how verdicts select among the cuts, and the judge's default question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parse_runtime.signature.selection import SelectionRule

PROMPT = "Is your answer so far correct, even if it is unfinished? Reply with one word: Yes or No."
CUTS = ("stride", "sentence")


def stride_cuts(length: int, stride: int) -> list[int]:
    """stride, 2 stride, ... below `length`, and `length` itself."""
    return [*range(stride, length, stride), length] if length else []


def sentence_cuts(texts: Sequence[str], stride: int) -> list[int]:
    """Cuts after tokens that end a sentence or a line, at least `stride` tokens apart, and the end.

    `texts` has the text of each token of the draft.
    """
    cuts: list[int] = []
    for end, text in enumerate(texts[:-1], start=1):
        closes = "\n" in text or text.rstrip().endswith((".", "!", "?"))
        if closes and end - (cuts[-1] if cuts else 0) >= stride:
            cuts.append(end)
    return [*cuts, len(texts)] if texts else []


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


def whole_first(
    cuts: Sequence[int], verdicts: Sequence[float], threshold: float, rule: SelectionRule
) -> int:
    """The last cut, the whole draft, where it is accepted; else what the rule selects before it."""
    if verdicts[-1] >= threshold:
        return cuts[-1]
    return SELECTIONS[rule](cuts[:-1], verdicts[:-1], threshold)


Selection = Callable[[Sequence[int], Sequence[float], float], int]
SELECTIONS: dict[SelectionRule, Selection] = {
    SelectionRule.FIRST_FAILURE: first_failure,
    SelectionRule.LONGEST_ACCEPTED: longest_accepted,
}
"""What verify passes compute inside (`parse_runtime.kernels.verdicts.select`)."""
