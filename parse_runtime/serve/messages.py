"""Messages and tools of chat requests, as chat templates read them."""

from __future__ import annotations

from typing import Any

import msgspec

from parse_runtime.serve.errors import ApiError
from parse_runtime.text.chat import Message


class Part(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Part of a content; there are none but texts."""

    text: str


class Called(msgspec.Struct, forbid_unknown_fields=True):
    """The function of a tool call; `arguments` is the text of a JSON object, or one."""

    name: str
    arguments: str | dict[str, Any] | None = None

    def values(self) -> dict[str, Any]:
        """The arguments as an object, which templates write in their own way."""
        if not isinstance(self.arguments, str):
            return self.arguments or {}
        try:
            return msgspec.json.decode(self.arguments or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            message = f"the arguments of a call of {self.name!r} are no JSON object: {error}"
            raise ApiError(400, message, "messages") from None


class ToolCall(msgspec.Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    """A tool call of an earlier answer."""

    function: Called
    id: str | None = None
    index: int | None = None


class Said(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One message."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    def message(self) -> Message:
        """ApiError where it says nothing."""
        text = self.content
        if text is None:
            if self.role != "assistant":
                raise ApiError(400, f"a message of role {self.role!r} has no content", "messages")
            text = self.refusal or ""
        elif not isinstance(text, str):
            text = "".join(part.text for part in text)
        message: Message = {"role": self.role, "content": text}
        for name in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, name)) is not None:
                message[name] = value
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.values()},
                    **({} if call.id is None else {"id": call.id}),
                }
                for call in self.tool_calls
            ]
        return message


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """What a model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    """A tool that a template is to describe to the model."""

    function: Function

    def described(self) -> dict[str, Any]:
        """As it came, without what is null."""
        given = msgspec.structs.asdict(self.function)
        function = {name: value for name, value in given.items() if value is not None}
        return {"type": "function", "function": function}
