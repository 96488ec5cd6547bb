"""The site is built without a warning, is complete, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import flask_mercure
from docs.website.reading import named_anchors, sections, sidebar
from flask_mercure.doctor.findings import Symptom
from mercure_hub.protocol.errors import Section
from tests.docs.markdown import PAGES, ROOT

pytestmark = pytest.mark.minutes

# Attributes that make a browser load something; of <link> only some relations do.
_LOADING = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "input": ("src",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_IN_CSS = re.compile(r"""(?:url\(|@import\s+)\s*["']?([^"')\s]+)""")


class Page(HTMLParser):
    """What a page loads, where it leads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.loads += [given[name] for name in _LOADING.get(tag, ()) if name in given]
        if tag == "link" and not {"next", "prev", "search", "index", "canonical"} & set(given["rel"].split()):
            self.loads.append(given["href"])
        self.loads += _IN_CSS.findall(given.get("style", ""))
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
        self.ids |= {given["id"]} if "id" in given else set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-c", "docs"]
    command += ["-d", str(folder / "doctrees"), ".", str(folder / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_each_page_is_there(site: Path, pages: dict[Path, Page]) -> None:
    for page in PAGES:
        assert site / page.relative_to(ROOT).with_suffix(".html") in pages
    assert "docs/index.html" in pages[site / "index.html"].leads


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 25
    for path, page in pages.items():
        assert page.loads or path == site / "index.html"
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{path}: {address}"
            assert urlsplit(address).scheme in ("", "data"), f"{path}: {address}"
    for style in site.rglob("*.css"):
        for address in _IN_CSS.findall(style.read_text(encoding="utf-8")):
            assert not urlsplit(address).netloc, f"{style}: {address}"
    for script in site.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert not re.findall(r"(?:fetch|import|importScripts|\.src\s*=)\s*\(?[\"'](?:https?:)?//", text), (
            script
        )


def test_what_is_loaded_and_linked_is_there(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for address in [*page.loads, *page.leads]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path}: {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path}: {address}"


def test_each_section_of_problems_has_its_anchor(site: Path, pages: dict[Path, Page]) -> None:
    assert {*Section, *Symptom} <= pages[site / "docs" / "troubleshooting.html"].ids


def test_each_public_name_is_in_the_reference(site: Path, pages: dict[Path, Page]) -> None:
    documented = pages[site / "docs" / "api.html"].ids
    assert {f"flask_mercure.{name}" for name in flask_mercure.__all__} <= documented
    for method in (
        "publish",
        "publish_many",
        "batch",
        "stream",
        "stream_events",
        "stop",
        "set_cookie",
        "subscribe",
        "outbox",
        "broadcast",
    ):
        assert f"flask_mercure.Mercure.{method}" in documented


def test_nothing_of_this_machine_is_in_it(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert str(ROOT) not in text, file
        assert sys.prefix not in text, file


def test_how_pages_are_read() -> None:
    assert named_anchors('a\n<a id="clock"></a>\n### B\n') == "a\n(clock)=\n### B\n"
    first = (
        "# T\n\n- [no](no.md)\n\n## One\n\n- [A page](a.md), [f](f/g.md): [b](b.md).\n- [C](c.md#d)\n"
        "\n## Two\n\n- [E](e.rst)\n"
    )
    assert sections(first) == {"One": [("A page", "a.md"), ("F", "f/g.md")], "Two": [("E", "e.rst")]}
    assert sidebar(first).count("toctree") == 2
    assert "A page <a>" in sidebar(first)
