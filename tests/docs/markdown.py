"""The pages of the repository, taken apart: links, anchors, blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        ROOT / "bench" / "README.md",
        ROOT / "chaos" / "README.md",
        *(ROOT / "docs").glob("**/*.md"),
        *(ROOT / "examples").glob("*/README.md"),
    ]
)
_MARK = re.compile(r"<!-- example: (.+?) -->")
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')


@dataclass(frozen=True)
class Block:
    """A block of code.

    :param language: first word of the fence; empty for an indented block.
    :param mark: what a comment ``<!-- example: ... -->`` right before it says.
    :param line: where the code begins, counted from 1.
    """

    page: Path
    language: str
    code: str
    mark: str
    line: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def tokens(page: Path) -> list[Token]:
    text = page.read_text(encoding="utf-8")
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks() -> Iterator[Block]:
    """Every block of code of every page."""
    for page in PAGES:
        mark = ""
        for token in tokens(page):
            if token.type in ("fence", "code_block"):
                assert token.map is not None
                language = token.info.split()[0] if token.info.strip() else ""
                line = token.map[0] + (2 if token.type == "fence" else 1)
                yield Block(page, language, token.content, mark, line)
            if token.type not in ("list_item_open", "paragraph_close"):
                found = _MARK.fullmatch(token.content.strip()) if token.type == "html_block" else None
                mark = found[1] if found else ""


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                yield str(target)


def inline_code(page: Path) -> Iterator[str]:
    for token in tokens(page):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of a page, as code hosts make them from headings."""
    found = set(_ANCHOR.findall(page.read_text(encoding="utf-8")))
    parsed = tokens(page)
    for opening, content in pairwise(parsed):
        if opening.type == "heading_open":
            text = "".join(child.content for child in content.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            number = sum(1 for one in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one))
            found.add(f"{slug}-{number}" if number else slug)
    return frozenset(found)
