"""Hook of `make docs`: pages and links that lie outside docs/.

README.md becomes the first page; CONTRIBUTING.md and CHANGELOG.md become pages, too. Any other
file of the repository that a page links to is copied into the site, so that the links work as
they do in a checkout; a link to a folder is shown as text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""From the root of the repository to the site."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages and files that are no part of docs/."""
    texts = {f"docs/{page.src_uri}": page.content_string for page in files.documentation_pages()}
    for source, page in PAGES.items():
        texts[source] = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_rewrite(texts[source], source, page)))
    targets = {
        _path(source, match[3])
        for source, text in texts.items()
        for match in LINK.finditer(CODE.sub("", text))
    }
    for path in sorted(targets - PAGES.keys() - {""}):
        if not path.startswith("docs/") and (ROOT / path).is_file():
            files.append(File.generated(config, _place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Links of pages in docs/ to what lies outside, to where it is in the site."""
    if page.file.generated_by is not None:
        return markdown
    return _rewrite(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _path(source: str, target: str) -> str:
    """What a link in `source` leads to, from the root; empty where it is no path."""
    path = target.partition("#")[0]
    if not path or "://" in path or path.startswith(("mailto:", "/")):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def _place(path: str) -> str:
    """Where a file of the repository is in the site; only those of PAGES and docs/ are pages."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path) or f"files/{path}" + (".txt" if path.endswith(".md") else "")


def _rewrite(text: str, source: str, page: str) -> str:
    def link(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path = _path(source, target)
        if not path:
            return match[0]
        if (ROOT / path).is_dir():
            return label
        relative = posixpath.relpath(_place(path), posixpath.dirname(page) or ".")
        _, hash, anchor = target.partition("#")
        return f"{image}[{label}]({relative}{hash}{anchor})"

    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(link, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(link, text[end:])])
