"""The table of settings in docs/extension.md: ``python -m docs.website.settings`` makes it."""

from __future__ import annotations

import re
from pathlib import Path

from flask_mercure.config.settings import reference

PAGE = Path(__file__).parents[1] / "extension.md"

_TABLE = re.compile(
    r"(<!-- Made from flask_mercure/config/settings.py by `make docs`; edit the texts there. -->\n\n)"
    r"(?:\|.*\n)*"
)


def page(text: str) -> str:
    """The page with its table up to date.

    :param text: of the page as it is.
    """
    updated, count = _TABLE.subn(lambda begin: begin[1] + reference(), text)
    assert count == 1, "the comment before the table is missing"
    return updated


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
