"""The page on other clients names those that are tried, and what comes out."""

from __future__ import annotations

import re

from tests.docs.markdown import ROOT
from tests.foreign.kinds import CURL, MERCURE_PUBLISHER, PHP_PACKAGES, SUBSCRIBERS, SYMFONY

PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without the marks of code."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `.+\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.replace("`", "").split("|")[1:-1]] for line in lines]


def test_those_that_receive() -> None:
    found = [(name, resumes) for name, _, resumes, *_ in rows("Subscribers")]
    assert found == [(kind.name, kind.resumes.value) for kind in SUBSCRIBERS]


def test_what_is_not_read_as_it_was_sent() -> None:
    drop = {name for name, *_, needs in rows("Subscribers") if "begin with spaces" in needs}
    assert drop == {kind.name for kind in SUBSCRIBERS if kind.drops_indentation}


def test_those_that_publish() -> None:
    assert [row[0] for row in rows("Publishers")] == [
        kind.name for kind in (CURL, MERCURE_PUBLISHER, *SYMFONY)
    ]
    assert PHP_PACKAGES in PAGE
