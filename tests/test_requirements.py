"""The table of requirements names code and tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
LEVELS = {"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY"}

TESTS = sorted(set(re.findall(r"`([\w/]+\.py(?:::\w+)+)`", PAGE)))
FUNCTIONS = sorted(set(re.findall(r"`((?:mercure_hub|flask_mercure)[\w.]*:[\w.]+)`", PAGE)))


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions and classes of a file, those of a class as ``Class.name``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return frozenset(found)


def rows() -> list[list[str]]:
    """Cells of the tables of requirements."""
    tables = PAGE.partition("## Deviations")[0]
    lines = [line for line in tables.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "requirement"]


@pytest.mark.parametrize("name", TESTS)
def test_each_cited_test_exists(name: str) -> None:
    file, _, test = name.partition("::")
    assert test.rpartition("::")[2].startswith("test_")
    assert test.replace("::", ".") in names_in(ROOT / "tests" / file)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_cited_function_exists(name: str) -> None:
    module, _, function = name.partition(":")
    root = ROOT / "hub" if module.startswith("mercure_hub") else ROOT
    path = root.joinpath(*module.split("."))
    assert function in names_in(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def test_both_packages_are_named() -> None:
    assert {name.partition(".")[0] for name in FUNCTIONS} == {"mercure_hub", "flask_mercure"}


def test_each_row_says_where_and_is_shown() -> None:
    assert len(rows()) > 100
    for row in rows():
        requirement, level, where, *shown = row
        assert level in LEVELS, requirement
        assert where, requirement
        assert "::" in "".join(shown) or "#deviations" in where, requirement


def test_nothing_in_backticks_is_overlooked() -> None:
    """What looks like a test or a function has been recognised as one."""
    quoted = re.findall(r"`([^`\n]+)`", PAGE)
    assert {one for one in quoted if "::" in one} == set(TESTS)
    assert {one for one in quoted if re.match(r"(mercure_hub|flask_mercure)\.\S*:\S", one)} == set(FUNCTIONS)
