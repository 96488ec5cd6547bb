"""The page on the architecture names parts and functions that exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.markdown import ROOT
from tests.test_architecture import EXTENSION, HUB

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^   ([\w.]+) +((?:flask_mercure|mercure_hub)/[\w/]+\.py) ", TEXT, re.MULTILINE)


def defined(path: str) -> set[str]:
    """The functions and methods of a module, by their qualified names."""
    root = ROOT / "hub" if path.startswith("mercure_hub/") else ROOT
    names = set()
    for node in ast.parse((root / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return names


def listed(heading: str) -> set[str]:
    """The names in the block of a section, without the folders below them."""
    block = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    names = re.findall(r"^    ([\w./]+)", block, re.MULTILINE)
    return {name.rstrip("/").removesuffix(".py") for name in names}


def test_the_path_of_an_update_has_all_its_steps() -> None:
    diagram = TEXT.partition("```\n")[2].partition("```")[0]
    assert len(STEPS) == diagram.count(".py") >= 15


@pytest.mark.parametrize(("name", "path"), STEPS)
def test_each_step_of_an_update_is_a_function(name: str, path: str) -> None:
    assert name in defined(path)


@pytest.mark.parametrize(("heading", "parts"), [("The hub", HUB), ("The extension", EXTENSION)])
def test_each_part_is_listed(heading: str, parts: dict[str, tuple[str, ...]]) -> None:
    assert listed(heading) == set(parts) - {"__main__"}
