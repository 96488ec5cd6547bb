"""Every link within the repository leads somewhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs.website.reading import sections
from tests.docs.markdown import PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_exist(page: Path) -> None:
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("http", "https"), link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.exists(), f"{link}: there is no {target}"
        assert target.is_relative_to(ROOT), link
        if parts.fragment:
            assert parts.fragment in anchors(target), f"{link}: {target.name} has no such anchor"


def test_the_first_page_lists_each_page_once() -> None:
    first = ROOT / "docs" / "index.md"
    listed = [path for pages in sections(first.read_text(encoding="utf-8")).values() for _, path in pages]
    paths = [(first.parent / path).resolve() for path in listed]
    assert sorted(paths) == sorted([*(page for page in PAGES if page != first), ROOT / "docs" / "api.rst"])


def test_the_readme_leads_to_what_a_newcomer_needs() -> None:
    reached = set(links(ROOT / "README.md"))
    for page in ("tutorial", "extension", "deployment", "settings", "troubleshooting", "index"):
        assert f"docs/{page}.md" in reached
