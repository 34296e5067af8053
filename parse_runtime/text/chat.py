"""Chat templates, and the judge's question as a pure suffix of a conversation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from foundryrt.errors import UsageError

_MARK = "MARKOFTHEDRAFT"
Message = dict[str, Any]
"""`role`, `content`, and what else the model's template reads (`tool_calls`, ...)."""
Conversation = str | Sequence[Message]
"""Messages, or the text of a single one of the user's."""


@dataclass(frozen=True)
class Chat:
    """A chat template (Jinja), its special tokens, and the ids that end an answer."""

    template: str
    bos: str
    eos: str
    stops: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        return {
            "template": self.template,
            "bos": self.bos,
            "eos": self.eos,
            "stops": list(self.stops),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Chat:
        return Chat(
            str(values["template"]),
            str(values["bos"]),
            str(values["eos"]),
            tuple(int(stop) for stop in values["stops"]),
        )

    def prompt(self, conversation: Conversation, **settings: object) -> str:
        """The conversation up to where the assistant's answer begins.

        `settings` are further variables of the template: `tools`, `documents`, `enable_thinking`.
        """
        return self._render(_messages(conversation), **settings)

    def judge_suffix(self, conversation: Conversation, judgement: str, **settings: object) -> str:
        """What follows an answer when a new user turn asks for a verdict on it.

        UsageError where the template rewrites what came before (then the KV entries of the
        judged answer would not be those of the answer itself).
        """
        earlier = _messages(conversation)
        messages = [
            *earlier,
            {"role": "assistant", "content": _MARK},
            {"role": "user", "content": judgement},
        ]
        # Templates of reasoning models leave the verdict's place for a thought unless told so.
        judged = self._render(messages, **{**settings, "enable_thinking": False})
        before, mark, after = judged.rpartition(_MARK)
        opening = self.prompt(conversation, **settings)
        kept = mark and before == opening
        if mark and not kept and opening.startswith(before):
            # An answer may open with more than a finished turn shows, such as an empty thought.
            kept = before.startswith(
                self._render(earlier, **{**settings, "add_generation_prompt": False})
            )
        if not kept:
            raise UsageError(
                "the chat template does not keep the beginning of a conversation unchanged when "
                "a turn is added, so a judge's question cannot be appended to an answer"
            )
        return after

    def _render(self, messages: list[Message], **settings: object) -> str:
        if not self.template:
            raise UsageError("the model has no chat template; give one with --chat-template FILE")
        try:
            text: str = _compiled(self.template).render(
                {
                    "add_generation_prompt": True,
                    "bos_token": self.bos,
                    "eos_token": self.eos,
                    **settings,
                    "messages": messages,
                }
            )
            return text
        except Exception as error:  # A template is a program, and fails in a program's ways.
            raise UsageError(f"the chat template fails: {error}") from error


def _messages(conversation: Conversation) -> list[Message]:
    if isinstance(conversation, str):
        return [{"role": "user", "content": conversation}]
    return list(conversation)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(template)


def _raise_exception(message: str) -> NoReturn:
    """Templates call this to refuse a conversation."""
    import jinja2

    raise jinja2.TemplateError(message)
