"""The comparison names tests that exist, one in each row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| |")
]
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_the_page_has_a_table() -> None:
    assert len(ROWS) > 30
    assert "::" not in PAGE.partition("## What only the others have")[2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_is_shown_by_a_test(row: list[str]) -> None:
    *cells, shown = row
    assert len(cells) == 4
    found = TEST.fullmatch(shown)
    assert found is not None, shown
    assert found[2] in names_in(ROOT / "tests" / found[1])
