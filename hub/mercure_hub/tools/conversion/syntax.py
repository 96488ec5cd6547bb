"""The syntax of a Caddyfile and of files with environment variables, with the line of everything in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_VARIABLE = re.compile(r"\{\$([^{}:\s]+)(?::([^{}]*))?\}")
_HEREDOC = re.compile(r"<<([A-Za-z0-9_-]+)")
_MOST_LINES = 10_000
_MOST_BLOCKS = 50


class CaddyfileError(Exception):
    """The text is no Caddyfile; the message has the location."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line, after the variables in it were replaced.

    :param location: file and number, as it is shown to people.
    """

    location: str
    text: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A value for ``{$NAME}``.

    :param location: where it comes from.
    """

    value: str
    location: str


@dataclass(frozen=True, slots=True)
class Directive:
    """A line with its block.

    :param words: the name and the arguments.
    :param location: file and number.
    :param block: what stands between the braces, if there are any.
    """

    words: tuple[str, ...]
    location: str
    block: list[Directive] = field(default_factory=list)
    has_block: bool = False

    @property
    def name(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[1:]


def lines_of(text: str, name: str) -> list[Line]:
    """Number the lines of a file.

    :raises CaddyfileError: there are more lines than any such file has.
    """
    lines = [Line(f"{name}:{number}", line) for number, line in enumerate(text.splitlines(), 1)]
    if len(lines) > _MOST_LINES:
        raise CaddyfileError(f"{name}: has more than {_MOST_LINES} lines")
    return lines


def substitute(
    lines: Sequence[Line], variables: Mapping[str, Variable], missing: Callable[[str, str], None]
) -> list[Line]:
    """Put in the values of ``{$NAME}`` and ``{$NAME:default}``, which may have several lines.

    :param missing: is told name and location of a variable without value and default.
    """
    found: list[Line] = []
    for line in lines:
        if line.text.lstrip().startswith("#"):
            continue
        whole = _VARIABLE.fullmatch(line.text.strip())
        if whole and whole[1] in variables:  # of several lines, each has its own location
            variable = variables[whole[1]]
            found += [Line(variable.location, part) for part in variable.value.splitlines()]
            continue

        def value(match: re.Match[str], location: str = line.location) -> str:
            if match[1] in variables:
                return variables[match[1]].value
            if match[2] is None:
                missing(match[1], location)
            return match[2] or ""

        found.append(Line(line.location, _VARIABLE.sub(value, line.text)))
    return found


def parse(lines: Sequence[Line]) -> list[Directive]:
    """Read directives and their blocks.

    :raises CaddyfileError: braces or quotes do not match.
    """
    top: list[Directive] = []
    open_blocks: list[tuple[list[Directive], str]] = [(top, "")]
    for location, words in _rows(lines):
        if words == ["}"]:
            if len(open_blocks) == 1:
                raise CaddyfileError(f"{location}: a brace closes what was never opened")
            open_blocks.pop()
            continue
        opens = words[-1] == "{"
        directive = Directive(tuple(words[:-1] if opens else words), location, has_block=opens)
        open_blocks[-1][0].append(directive)
        if opens:
            open_blocks.append((directive.block, location))
            if len(open_blocks) > _MOST_BLOCKS:
                raise CaddyfileError(f"{location}: more than {_MOST_BLOCKS} blocks in each other")
    if len(open_blocks) > 1:
        raise CaddyfileError(f"{open_blocks[-1][1]}: the brace at its end is not closed")
    return top


def _rows(lines: Sequence[Line]) -> Iterator[tuple[str, list[str]]]:
    """The words of each line; a quoted word and a heredoc may reach over several lines."""
    number = 0
    while number < len(lines):
        location, words = lines[number].location, []
        rest = lines[number].text
        while rest := rest.lstrip():
            if rest[0] == "#":
                break
            if rest[0] in '"`':
                quote, rest = rest[0], rest[1:]
                while (end := _end(rest, quote)) < 0:
                    number += 1
                    if number == len(lines):
                        raise CaddyfileError(f"{location}: a quoted text has no end")
                    rest += "\n" + lines[number].text
                word, rest = rest[:end], rest[end + 1 :]
                words.append(word.replace('\\"', '"') if quote == '"' else word)
                continue
            word, _, rest = _split(rest)
            heredoc = _HEREDOC.fullmatch(word)
            if heredoc:
                taken: list[str] = []
                number += 1
                while number < len(lines) and lines[number].text.split()[:1] != [heredoc[1]]:
                    taken.append(lines[number].text.strip())
                    number += 1
                if number == len(lines):
                    raise CaddyfileError(f"{location}: the text after <<{heredoc[1]} has no end")
                words.append("\n".join(taken))
                rest = lines[number].text.split(maxsplit=1)[1] if " " in lines[number].text.strip() else ""
                continue
            if word == "\\" and not rest:  # the line goes on
                number += 1
                rest = lines[number].text if number < len(lines) else ""
                continue
            words.append(word)
        number += 1
        if words:
            yield location, words


def _end(text: str, quote: str) -> int:
    """Where a quoted text ends, or -1."""
    position = text.find(quote)
    while quote == '"' and position > 0 and text[position - 1] == "\\":
        position = text.find(quote, position + 1)
    return position


def _split(text: str) -> tuple[str, str, str]:
    match = re.search(r"\s", text)
    return (text, "", "") if match is None else (text[: match.start()], match[0], text[match.end() :])


_FROM_FILE = re.compile(r"""(?<==)("?)\$\((?:cat|<)\s+([^\s()'"$]+)\s*\)\1(?=\s|$)""")
_WORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*[=:]\s*(.*)", re.DOTALL)


class DotenvError(Exception):
    """A line is no assignment; the message has its location and nothing of its value."""


def is_environment(lines: Sequence[Line]) -> bool:
    """Whether the first line that says something is an assignment, or the file a script of a shell."""
    if lines and lines[0].text.startswith("#!"):
        return True
    for line in lines:
        text = line.text.strip()
        if text and not text.startswith("#"):
            return re.match(r"(export\s+)?[A-Za-z_][A-Za-z0-9_]*=", text) is not None
    return False


def parse_environment(lines: Sequence[Line], left: Callable[[str, str, str], None]) -> dict[str, Variable]:
    """Read assignments; a quoted value may reach over several lines. The last one of a name counts.

    :param left: is told location, name and reason of what a script makes of a variable, or does besides.
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
            raise DotenvError(f"{line.location}: is not NAME=VALUE")
        value = match[2].strip()
        if value[:1] in ("'", '"'):
            quote, value = value[0], value[1:]
            while quote not in value:
                if number == len(lines):
                    raise DotenvError(f"{line.location}: the quote has no end")
                value += "\n" + lines[number].text
                number += 1
            value = value[: value.index(quote)]
        else:
            value = re.sub(r"\s+#.*", "", value)
        found[match[1]] = Variable(value, line.location)
    return found


def _parse_script(lines: Sequence[Line], left: Callable[[str, str, str], None]) -> dict[str, Variable]:
    """The variables that a shell's script sets, or gives to the command that it starts."""
    found: dict[str, Variable] = {}
    for location, words in _commands(lines):
        while words and words[0] in ("export", "env", "exec"):
            words.pop(0)
        while words and (match := _WORD.fullmatch(words[0])):
            words.pop(0)
            name, value = match.groups()
            if value.startswith("@") and not name.endswith("_KEY"):
                left(location, name, f"its value is in the file {value[1:]!r}; write it out")
            elif "$" in value or "`" in value:
                left(location, name, "its value is made by the shell; write it out")
            else:
                found[name] = Variable(value, location)
        if words:
            left(location, "a command", "is for the shell; look whether it passes settings on")
    return found


def _commands(lines: Sequence[Line]) -> Iterator[tuple[str, list[str]]]:
    """The words of each command, with the location where it begins; ``$(cat PATH)`` becomes ``@PATH``.

    :raises DotenvError: a quote has no end.
    """
    number = 0
    while number < len(lines):
        location, text = lines[number].location, lines[number].text
        number += 1
        while (words := _words(text)) is None:
            if number == len(lines):
                raise DotenvError(f"{location}: the quote has no end")
            text = text[:-1] + lines[number].text if text.endswith("\\") else f"{text}\n{lines[number].text}"
            number += 1
        if words:
            yield location, words


def _words(text: str) -> list[str] | None:
    """:returns: ``None`` when the command goes on in the next line."""
    try:
        return shlex.split(_FROM_FILE.sub(r"@\2", text), comments=True)
    except ValueError:  # an open quote, or a backslash at the end
        return None
