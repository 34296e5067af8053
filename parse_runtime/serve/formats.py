"""Forms of answers that a request may ask for (`response_format`)."""

from __future__ import annotations

from typing import Any

import msgspec


class TextFormat(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Any text."""

    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for any text."""
        return None


class JsonObject(msgspec.Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """Any JSON object."""

    def schema(self) -> dict[str, Any] | None:
        return {"type": "object"}


class Schema(msgspec.Struct, forbid_unknown_fields=True):
    """A named schema; it is followed whether it is `strict` or not."""

    name: str
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchema(msgspec.Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    """JSON of a schema."""

    json_schema: Schema

    def schema(self) -> dict[str, Any] | None:
        return self.json_schema.schema or {"type": "object"}


ResponseFormat = TextFormat | JsonObject | JsonSchema
