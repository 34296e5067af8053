"""The page as one document: nothing in it is fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files

_SCRIPTS = ("axes.js", "plots.js", "page.js")


@dataclass(frozen=True)
class Document:
    """HTML, and the policy under which its own style and scripts, and nothing else, may run."""

    html: str
    policy: str


def document() -> Document:
    """The page, put together of the files in `page/`."""
    folder = files(__package__) / "page"
    style = (folder / "style.css").read_text("utf-8")
    script = "".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    html = (folder / "page.html").read_text("utf-8")
    html = html.replace("/* style */", style).replace("/* script */", script)
    policy = (
        f"default-src 'none'; img-src data:; connect-src 'self'; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; frame-ancestors 'none'"
    )
    return Document(html, policy)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
