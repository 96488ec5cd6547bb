"""Files of environment variables, as compose, systemd and Symfony read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hub.migration.caddyfile import Line, Variable

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*[=:]\s*(.*)", re.DOTALL)


class DotenvError(Exception):
    """A line is no assignment; the message has its place and nothing of its value."""


def looks_like_one(lines: Sequence[Line]) -> bool:
    """Whether the first line that says something is an assignment."""
    for line in lines:
        text = line.text.strip()
        if text and not text.startswith("#"):
            return re.match(r"(export\s+)?[A-Za-z_][A-Za-z0-9_]*=", text) is not None
    return False


def parse(lines: Sequence[Line]) -> dict[str, Variable]:
    """Read assignments; a quoted value may reach over several lines. The last one of a name counts.

    :raises DotenvError: a line is no assignment, or a quote has no end.
    """
    found: dict[str, Variable] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        text = line.text.strip()
        if not text or text.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(text)
        if match is None:
            raise DotenvError(f"{line.place}: is not NAME=VALUE")
        value = match[2].strip()
        if value[:1] in ("'", '"'):
            quote, value = value[0], value[1:]
            while quote not in value:
                if number == len(lines):
                    raise DotenvError(f"{line.place}: the quote has no end")
                value += "\n" + lines[number].text
                number += 1
            value = value[: value.index(quote)]
        else:
            value = re.sub(r"\s+#.*", "", value)
        found[match[1]] = Variable(value, line.place)
    return found
