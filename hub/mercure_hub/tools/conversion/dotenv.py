"""Files of environment variables, as compose, systemd and Symfony read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from mercure_hub.tools.conversion.caddyfile import Line, Variable

_FROM_FILE = re.compile(r"""(?<==)("?)\$\((?:cat|<)\s+([^\s()'"$]+)\s*\)\1(?=\s|$)""")
_WORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*[=:]\s*(.*)", re.DOTALL)


class DotenvError(Exception):
    """A line is no assignment; the message has its place and nothing of its value."""


def looks_like_one(lines: Sequence[Line]) -> bool:
    """Whether the first line that says something is an assignment, or the file a script of a shell."""
    if lines and lines[0].text.startswith("#!"):
        return True
    for line in lines:
        text = line.text.strip()
        if text and not text.startswith("#"):
            return re.match(r"(export\s+)?[A-Za-z_][A-Za-z0-9_]*=", text) is not None
    return False


def parse(lines: Sequence[Line], left: Callable[[str, str, str], None]) -> dict[str, Variable]:
    """Read assignments; a quoted value may reach over several lines. The last one of a name counts.

    :param left: is told place, name and reason of what a script makes of a variable, or does besides.
    :raises DotenvError: a line is no assignment, or a quote has no end.
    """
    if lines[0].text.startswith("#!") or any(line.text.endswith("\\") for line in lines):
        return _parse_script(lines, left)
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


def _parse_script(lines: Sequence[Line], left: Callable[[str, str, str], None]) -> dict[str, Variable]:
    """The variables that a shell's script sets, or gives to the command that it starts."""
    found: dict[str, Variable] = {}
    for place, words in _commands(lines):
        while words and words[0] in ("export", "env", "exec"):
            words.pop(0)
        while words and (match := _WORD.fullmatch(words[0])):
            words.pop(0)
            name, value = match.groups()
            if value.startswith("@") and not name.endswith("_KEY"):
                left(place, name, f"its value is in the file {value[1:]!r}; write it out")
            elif "$" in value or "`" in value:
                left(place, name, "its value is made by the shell; write it out")
            else:
                found[name] = Variable(value, place)
        if words:
            left(place, "a command", "is for the shell; look whether it passes settings on")
    return found


def _commands(lines: Sequence[Line]) -> Iterator[tuple[str, list[str]]]:
    """The words of each command, with the place where it begins; ``$(cat PATH)`` becomes ``@PATH``.

    :raises DotenvError: a quote has no end.
    """
    number = 0
    while number < len(lines):
        place, text = lines[number].place, lines[number].text
        number += 1
        while (words := _words(text)) is None:
            if number == len(lines):
                raise DotenvError(f"{place}: the quote has no end")
            text = text[:-1] + lines[number].text if text.endswith("\\") else f"{text}\n{lines[number].text}"
            number += 1
        if words:
            yield place, words


def _words(text: str) -> list[str] | None:
    """:returns: ``None`` when the command goes on in the next line."""
    try:
        return shlex.split(_FROM_FILE.sub(r"@\2", text), comments=True)
    except ValueError:  # an open quote, or a backslash at the end
        return None
