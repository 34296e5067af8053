"""From texts and messages to requests in tokens, by the tokenizers and templates of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.calibration import Calibration
from parse_runtime.engine.judge import sentence_cuts, stride_cuts
from parse_runtime.engine.request import Request, TooLong
from parse_runtime.engine.rules import Rules
from parse_runtime.sampling.processing import Processing
from parse_runtime.text.chat import Chat, Conversation
from parse_runtime.text.grammar import Grammars
from parse_runtime.text.spelling import Spelling
from parse_runtime.text.stopping import StopText
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.text.translation import TokenTranslation

_COMPOSED = 4
"""Unicode's normal form C makes one character of up to so many."""


@dataclass(frozen=True)
class TextFormat:
    """How one model reads and writes text."""

    tokenizer: Tokenizer
    chat: Chat


@dataclass(frozen=True)
class Raw:
    """Text, or tokens of the target, to be continued as they are: no chat template."""

    content: str | Sequence[int]


@dataclass(frozen=True)
class Ending:
    """What else than the models' stop tokens ends an answer, and whether these do."""

    stop_tokens: Sequence[int] = ()
    ignore_stops: bool = False


@dataclass(frozen=True)
class Prompts:
    """Makes requests; `draft` is the target's own format where both have the same tokens."""

    target: TextFormat
    draft: TextFormat
    translation: TokenTranslation
    calibration: Calibration | None = None
    """Of the pair, for verdicts under the question that it was fitted with."""
    words: tuple[str, str] | None = None
    """The judge's yes and no; None where nobody needs to check that they are tokens."""

    def request(
        self,
        prompt: Conversation | Raw,
        max_new_tokens: int,
        sampling: Sampling,
        rules: Rules,
        ending: Ending | None = None,
        settings: Mapping[str, Any] | None = None,
        processing: Processing | None = None,
    ) -> Request:
        """`settings`: further variables of the chat template.

        UsageError where the chat template refuses the messages, a token is unknown, or the judge
        that `rules` ask cannot answer.
        """
        messages: Conversation = "" if isinstance(prompt, Raw) else prompt
        settings, ending = settings or {}, ending or Ending()
        tokens = self.encode(prompt, settings)
        fitted = self.calibration if rules.calibrated else None
        if fitted and fitted.judge_prompt != rules.judge_prompt:
            fitted = None
        if not (rules.judge_prompt or fitted or rules.max_rounds == 0):
            raise UsageError(
                "judge-prompt: without a question there are verdicts only by a calibration that "
                "had none: give a question, or go by such a calibration (foundryc calibrate)"
            )
        if rules.max_rounds and self.words:
            # A bundle captured with max_rounds 0 may have a model that cannot be a judge.
            self.target.tokenizer.verdicts(*self.words)
        # Templates take their time.
        judging = rules.judge_prompt if rules.max_rounds else ""
        suffix = judging and self.target.chat.judge_suffix(messages, judging, **settings)
        return Request(
            prompt=tokens,
            draft_prompt=tokens if self.translation.same else self._draft_prompt(prompt, settings),
            suffix=self.target.tokenizer.encode(suffix),
            stops=frozenset(ending.stop_tokens)
            | frozenset(() if ending.ignore_stops else self.target.chat.stops),
            ends=not ending.ignore_stops,
            translation=self.translation,
            cuts=lambda draft: self._cuts(draft, rules),
            max_new_tokens=max_new_tokens,
            rules=rules,
            sampling=sampling,
            processing=processing or Processing(),
            score=fitted.score if fitted else None,
        )

    def refuse_longer(
        self,
        prompt: Conversation | Raw,
        rules: Rules,
        max_len: int,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """TooLong where a text could not be `max_len` tokens however it is encoded.

        Encoding a megabyte takes a second in which no other thread of Python runs.
        """
        if not isinstance(prompt, Raw):
            prompt = Raw(self.target.chat.prompt(prompt, **(settings or {})))
        size = len(prompt.content) if isinstance(prompt.content, str) else 0
        size = max(size, len(rules.judge_prompt))
        most = _COMPOSED * max_len
        # The longest token is looked for only where it matters.
        if size > most and size > most * self.target.tokenizer.longest:
            raise TooLong(
                f"a prompt of {size} characters exceeds the {max_len} tokens of the bundle: "
                "shorten it, or capture with a larger --max-len"
            )

    @cached_property
    def grammars(self) -> Grammars:
        """Of the target's tokens."""
        return Grammars(self.target.tokenizer, self.target.chat.stops)

    @cached_property
    def spelling(self) -> Spelling:
        """Of the target's tokens."""
        return Spelling(self.target.tokenizer)

    def text(self, stops: Sequence[str]) -> StopText:
        """Turns an answer's tokens into text up to a stop string."""
        return StopText(self.target.tokenizer.stream(), stops)

    def encode(
        self, prompt: Conversation | Raw, settings: Mapping[str, Any] | None = None
    ) -> list[int]:
        """A prompt in the target's tokens."""
        if not isinstance(prompt, Raw):
            return self.target.tokenizer.encode(self.target.chat.prompt(prompt, **(settings or {})))
        if isinstance(prompt.content, str):
            return self.target.tokenizer.encode(prompt.content, special=True)
        self.refuse_unknown(prompt.content)
        return list(prompt.content)

    def refuse_unknown(self, tokens: Sequence[int]) -> None:
        """UsageError where the target has no such token."""
        tokenizer = self.target.tokenizer
        if unknown := [token for token in tokens if not tokenizer.has(token)]:
            raise UsageError(f"no token {unknown[0]}: ids are from 0 to {tokenizer.size - 1}")

    def _draft_prompt(self, prompt: Conversation | Raw, settings: Mapping[str, Any]) -> list[int]:
        if not isinstance(prompt, Raw):
            return self.draft.tokenizer.encode(self.draft.chat.prompt(prompt, **settings))
        content = prompt.content
        text = content if isinstance(content, str) else self.target.tokenizer.decode(content)
        return self.draft.tokenizer.encode(text, special=True)

    def _cuts(self, draft: Sequence[int], rules: Rules) -> list[int]:
        if rules.cut_at == "sentence":
            texts = [self.target.tokenizer.decode([token]) for token in draft]
            return sentence_cuts(texts, rules.stride)
        return stride_cuts(len(draft), rules.stride)
