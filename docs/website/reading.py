"""Pages of a code host, as MyST understands them.

What MyST needs beside Markdown would show on a code host, so it is added while a page is read: the sections
of the sidebar, which are the lists of the first page, and names for anchors.
"""

from __future__ import annotations

import posixpath
import re

from sphinx.application import Sphinx

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_ITEM = re.compile(r"^- (.+?)(?:: |$)", re.MULTILINE)  # what follows a colon explains
_ENTRY = re.compile(r"\[([^\]]+)\]\(([^)#]+)\)")
_ANCHOR = re.compile(r'^<a id="([a-z0-9-]+)"></a>$', re.MULTILINE)


def install(app: Sphinx) -> None:
    """Read pages this way."""
    app.connect("source-read", _read)


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    content[0] = named_anchors(content[0])
    if docname == app.config.root_doc:
        content[0] += sidebar(content[0])


def named_anchors(text: str) -> str:
    """Anchors in HTML as targets of MyST, which links are checked against."""
    return _ANCHOR.sub(r"(\1)=", text)


def sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """The pages that the first page lists: their titles and paths relative to it, by section."""
    titles = list(_SECTION.finditer(text))
    ends = [title.start() for title in titles[1:]] + [len(text)]
    return {
        title[1]: [
            (name[0].upper() + name[1:], path)
            for item in _ITEM.findall(text, title.end(), end)
            for name, path in _ENTRY.findall(item)
        ]
        for title, end in zip(titles, ends, strict=True)
    }


def sidebar(text: str) -> str:
    """The lists of the first page as sections of the sidebar, in their order."""
    return "".join(
        f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n"
        + "".join(f"{name} <{posixpath.splitext(path)[0]}>\n" for name, path in pages)
        + "```\n"
        for title, pages in sections(text).items()
    )
