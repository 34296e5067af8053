"""The description of the API, for tools that read OpenAPI 3.1."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from foundryrt import __version__
from parse_runtime.serve.body import HARMLESS, ChatBody, TextBody

Json = dict[str, Any]
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_STATUSES = {
    "400": "A field is unknown, wrong or not supported, or the prompt is too long",
    "404": "Another model",
    "408": "The request took too long to come in",
    "413": "The body is too long",
    "429": "As many requests wait as may",
    "500": "A pass failed",
    "503": "The server stops, has lost a rank, or too many connections are open",
}


@functools.cache
def openapi() -> Json:
    """The document as JSON-able values."""
    bodies = (TextBody, ChatBody)
    _, schemas = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    for body in bodies:
        properties = schemas[body.__name__]["properties"]
        for name in HARMLESS.keys() & properties.keys():
            properties[name] = {"enum": [None, *HARMLESS[name]]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Foundry, parse", "version": __version__},
        "paths": {
            "/v1/completions": {"post": _completion("TextBody", "Continue a text")},
            "/v1/chat/completions": {"post": _completion("ChatBody", "Answer a conversation")},
            "/v1/models": {"get": _read("The one model that is served")},
            "/v1/models/{name}": {
                "get": {
                    **_read("The model, by its name"),
                    "parameters": [
                        {"name": "name", "in": "path", "required": True,
                         "schema": {"type": "string"}}
                    ],
                }
            },
            "/health": {"get": _read("200 where answers come at once, else 503")},
            "/metrics": {"get": _read("Counts and gauges for Prometheus", "text/plain")},
        },
        "components": {"schemas": {**schemas, "Error": _ERROR}},
    }  # fmt: skip


def _completion(body: str, summary: str) -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
        },
        "responses": {
            "200": {
                "description": "The answer, or its events",
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            },
            **{
                status: {"description": text, "content": error}
                for status, text in _STATUSES.items()
            },
        },
    }


def _read(summary: str, media: str = "application/json") -> Json:
    return {
        "summary": summary,
        "responses": {"200": {"description": "It", "content": {media: {}}}},
    }
