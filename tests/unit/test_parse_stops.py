"""Stop strings in streamed text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models

from parse_runtime.text.stopping import StopText
from parse_runtime.text.tokenizer import TextStream, Tokenizer

TOKENS = ["a", "b", "c", "ab", "bc", "ca", "abc"]
INNER = Inner(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, "a"))
INNER.decoder = decoders.Fuse()
TOKENIZER = Tokenizer(INNER)

letters = st.text("abc", min_size=1, max_size=4)
answers = st.lists(st.integers(0, len(TOKENS) - 1), max_size=12)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """Letter by letter: the first stop string that is complete ends the text before it."""
    for end in range(1, len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)], True
    return text, False


@given(answers, st.lists(letters, max_size=3))
def test_text_ends_before_the_stop_string_that_is_complete_first(
    tokens: list[int], stops: list[str]
) -> None:
    stopping = StopText(TextStream(TOKENIZER), stops)
    shown = ""
    for token in tokens:
        shown += stopping.push(token)
        # What is shown is never taken back.
        assert expected(TOKENIZER.decode(tokens), stops)[0].startswith(shown)
        if stopping.ended:
            break
    text, ended = expected(TOKENIZER.decode(tokens), stops)
    assert (shown + stopping.rest(), stopping.ended) == (text, ended)


@given(answers, answers, st.lists(letters, max_size=3))
def test_a_fork_goes_on_by_itself(tokens: list[int], ahead: list[int], stops: list[str]) -> None:
    def run(stopping: StopText, tokens: list[int]) -> str:
        return "".join(stopping.push(token) for token in tokens if not stopping.ended)

    first, second = (StopText(TextStream(TOKENIZER), stops) for _ in range(2))
    assert run(first, tokens) == run(second, tokens)
    if not first.ended:
        fork = first.fork()
        assert run(fork, ahead) == run(second, ahead) and fork.ended == second.ended
        again = first.fork()
        assert run(again, ahead) == run(first, ahead)


def test_no_stop_strings_hold_nothing_back() -> None:
    stopping = StopText(TextStream(TOKENIZER), [""])
    assert stopping.push(6) == "abc" and stopping.rest() == ""


def test_an_end_inside_a_character_is_not_lost() -> None:
    inner = Inner(models.BPE(vocab={c: i for i, c in enumerate("aâĤ¬")}, merges=[]))
    inner.decoder = decoders.ByteLevel()
    for tokens, text in (([0, 1, 2, 3], "a\u20ac"), ([0, 1, 2], "a\ufffd"), ([0], "a")):
        stopping = StopText(TextStream(Tokenizer(inner)), ["never"])
        shown = "".join(stopping.push(token) for token in tokens)
        assert shown + stopping.rest() == text
