"""Jinja chat templates, rendered as transformers does.

https://huggingface.co/docs/transformers/main/en/chat_templating_writing
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from foundryrt.errors import UsageError


def render(template: str, now: datetime, values: Mapping[str, object]) -> str:
    """The template's text of `values`; UsageError where it fails.

    `now` is the time that the template's `strftime_now` tells.
    """
    try:
        text: str = _compiled(template).render(strftime_now=now.strftime, **values)
        # What a template builds, such as a lone surrogate, has to be text.
        text.encode()
        return text
    except UnicodeEncodeError:
        raise UsageError("a text is not valid Unicode") from None
    except Exception as error:  # A template is a program, and fails in a program's ways.
        raise UsageError(f"the chat template fails: {error}") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks answers for training; its text is that of its contents."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A block of its own, as in transformers: what is set inside is not seen outside.
            return nodes.CallBlock(self.call_method("_contents"), [], [], body).set_lineno(line)

        def _contents(self, caller: Any) -> str:
            return str(caller())

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(template)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes what matters in HTML, and sorts keys."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    """Templates call this to refuse a conversation."""
    import jinja2

    raise jinja2.TemplateError(message)
