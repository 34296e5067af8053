"""Chat templates, and the judge's question as a pure suffix of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from foundryrt.errors import UsageError
from parse_runtime.text.templates import render

_MARK = "MARKOFTHEDRAFT"
_REASONING = ("reasoning_content", "thinking", "reasoning")
Message = dict[str, Any]
"""`role`, `content`, and what else the model's template reads (`tool_calls`, ...)."""
Conversation = str | Sequence[Message]
"""Messages, or the text of a single one of the user's."""


@dataclass(frozen=True)
class Chat:
    """A chat template (Jinja), its special tokens, and the ids that end an answer."""

    template: str
    special: Mapping[str, str]
    """By the names that templates use, such as `bos_token`; only those that the model has."""
    stops: tuple[int, ...]
    tool_template: str = ""
    """In place of `template` for conversations with tools, where a model has one for them."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        return {
            "template": self.template,
            "special": dict(self.special),
            "stops": list(self.stops),
            "tool_template": self.tool_template,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Chat:
        return Chat(
            str(values["template"]),
            {str(name): str(text) for name, text in dict(values["special"]).items()},
            tuple(int(stop) for stop in values["stops"]),
            str(values["tool_template"]),
        )

    def prompt(self, conversation: Conversation, **settings: object) -> str:
        """The conversation up to where the assistant's answer begins.

        `settings` are further variables of the template: `tools`, `documents`, `enable_thinking`.
        UsageError where there is no template, or it refuses the conversation.
        """
        return self._render(_messages(conversation), datetime.now(), settings)

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
        now = datetime.now()
        # Templates of reasoning models leave the verdict's place for a thought unless told so.
        judged = self._render(messages, now, {**settings, "enable_thinking": False})
        before, mark, after = judged.rpartition(_MARK)
        opening = self._render(earlier, now, settings)
        kept = mark and before == opening
        if mark and not kept and opening.startswith(before):
            # An answer may open with more than a finished turn shows, such as an empty thought.
            kept = before.startswith(
                self._render(earlier, now, {**settings, "add_generation_prompt": False})
            )
        if not kept:
            raise UsageError(
                "the chat template does not keep the beginning of a conversation unchanged when "
                "a turn is added, so a judge's question cannot be appended to an answer: capture "
                "with another one (--chat-template FILE)"
            )
        return after

    def _render(
        self, messages: list[Message], now: datetime, settings: Mapping[str, object]
    ) -> str:
        template = self.template
        if self.tool_template and settings.get("tools") is not None:
            template = self.tool_template
        if not template:
            raise UsageError(
                "the model has no chat template: capture with --chat-template FILE; a server "
                "takes texts to be continued, too (/v1/completions)"
            )
        values = {
            # Templates ask `is none` of these, which what is undefined is not.
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
            **self.special,
            **settings,
            "messages": [_message(message) for message in messages],
        }
        return render(template, now, values)


def _messages(conversation: Conversation) -> list[Message]:
    if isinstance(conversation, str):
        return [{"role": "user", "content": conversation}]
    return list(conversation)


def _message(message: Message) -> Message:
    """As transformers hands it to a template: without nulls, reasoning by the usual names."""
    found = {name: value for name, value in message.items() if value is not None}
    for name in _REASONING:
        if name in found:
            return {"thinking": found[name], **found, "reasoning_content": found[name]}
    return found
