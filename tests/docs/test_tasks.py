"""``docs/comparison/tasks.md``: the table has the figures of the code below it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.docs.markdown import ROOT, tokens

PAGE = ROOT / "docs" / "comparison" / "tasks.md"


def blocks_of_tasks() -> Iterator[tuple[str, str, str]]:
    """Each block of code, after the task and the system that it is of."""
    task = system = level = ""
    for token in tokens(PAGE):
        if token.type == "heading_open":
            level = token.tag
        elif token.type == "inline" and level:
            task, system = (token.content, "") if level == "h2" else (task, token.content)
            level = ""
        elif token.type in ("fence", "code_block"):
            yield task, system, token.content


def code_of(task: str, system: str) -> list[str]:
    """The blocks of a task."""
    return [code for one, other, code in blocks_of_tasks() if (one, other) == (task, system)]


def lines_of_code() -> dict[str, dict[str, int]]:
    """Lines of code by task and by system, without the blank ones."""
    found: dict[str, dict[str, int]] = {}
    for task, system, code in blocks_of_tasks():
        counts = found.setdefault(task, {})
        counts[system] = counts.get(system, 0) + sum(bool(line.strip()) for line in code.splitlines())
    return found


def test_the_table_has_the_lines_of_the_code() -> None:
    counted = lines_of_code()
    rows = re.findall(r"^\| \[.*?\]\(#(.*?)\) \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    named = {re.sub(r"[^a-z0-9 -]", "", task.lower()).replace(" ", "-"): task for task in counted}
    systems = ("flask-mercure", "Flask-SocketIO", "Laravel", "Rails")
    shown = {named[anchor]: [int(one) for one in cells.split("|")] for anchor, cells in rows}
    assert shown == {task: [counts[system] for system in systems] for task, counts in counted.items()}
