"""What is said of answers that differ between one rank and several."""

from __future__ import annotations

from typing import Any

from benchmarks.arith.ranks import compared, parting


def answer(text: str, *verdicts: list[tuple[int, float]], **more: Any) -> dict[str, Any]:
    return {"text": text, "verdicts": list(verdicts), "threshold": 0.5, **more}


def test_a_verdict_on_the_thresholds_other_side_parts_answers() -> None:
    one = answer("a=1;b=2", [(4, 0.9), (8, 0.8)], [(2, 0.501), (4, 0.3)])
    two = answer("a=1;b=3", [(4, 0.9), (8, 0.7)], [(2, 0.499), (4, 0.3)])
    alone = [answer(text, margins=[(0, 1.0)]) for text in ("a=1;b=2", "a=1;b=3")]
    assert parting(one, two, alone) == {"round": 1, "length": 2, "verdicts": [0.501, 0.499]}


def test_else_it_is_a_token_with_its_margins() -> None:
    margins = [(0, 9.0), (2, 8.0), (4, 0.01), (6, 7.0)]
    one, two = answer("ab cd efg"), answer("ab cX efg")
    alone = [
        answer("ab cd efg", margins=margins),
        answer("ab cX efg", margins=[*margins[:2], (4, 0.02)]),
    ]
    assert parting(one, two, alone) == {"character": 4, "margins": [0.01, 0.02]}
    # The target alone wrote something else: its margins are of other tokens.
    alone[1] = answer("ac", margins=margins)
    assert parting(one, two, alone)["margins"] == [0.01]


def test_drafts_of_other_lengths_are_no_verdicts_to_compare() -> None:
    one = answer("abc", [(4, 0.9)], [(2, 0.9)])
    two = answer("abd", [(4, 0.9)], [(3, 0.1)])
    assert "character" in parting(one, two, [answer("abc", margins=[(0, 1.0)])] * 2)


def test_one_answer_that_is_longer_parts_where_the_other_ends() -> None:
    alone = [answer("ab", margins=[(0, 1.0), (1, 0.5)]), answer("abc", margins=[(0, 1.0)])]
    assert parting(answer("ab"), answer("abc"), alone) == {"character": 2, "margins": [0.5, 1.0]}


def test_answers_are_counted() -> None:
    texts = ["abc", "abd", "x"], ["abc", "abe", "x"]
    found = [
        {
            method: {
                "answers": [answer(text, margins=[(2, 0.1)]) for text in own],
                "right": right,
                "tokens_per_second": speed,
            }
            for method in ("target", "parse")
        }
        for own, right, speed in zip(texts, (3, 2), (10.0, 15.0), strict=True)
    ]
    assert compared("parse", *found) == {
        "problems": 3,
        "equal": 2,
        "differing": [{"problem": 1, "character": 2, "margins": [0.1, 0.1]}],
        "right": [3, 2],
        "tokens_per_second": [10.0, 15.0],
    }
