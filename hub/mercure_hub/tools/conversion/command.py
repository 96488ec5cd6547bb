"""``mercure-hub convert``: our settings for a Caddyfile and the environment of the Go hub."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mercure_hub.tools.conversion import settings
from mercure_hub.tools.conversion.conversion import Conversion, environment, toml
from mercure_hub.tools.conversion.settings import Directives
from mercure_hub.tools.conversion.syntax import (
    CaddyfileError,
    Directive,
    DotenvError,
    Line,
    Variable,
    is_environment,
    lines_of,
    parse,
    parse_environment,
    substitute,
)

_DESCRIPTION = """Print the settings of this hub for the Caddyfile of the Go hub, its environment, or both.

The settings go to standard output. What needs a look goes to standard error, with its location. Exit
status: 0 when everything became a setting or needs none, 1 when something is left, 2 when a file cannot be
used. Nothing is written or changed."""
_MOST_BYTES = 1_000_000
_NO_VALUE = "has no value here; if it has one, give its file to this command, too"
_SECOND = "is a second hub; convert its site alone, into its own file"
_ROUTES = ("route", "handle", "handle_path")
_IN_SITES = (*_ROUTES, "log", "mercure")  # what cannot be an address
_IN_ENVIRONMENT = re.compile(r"\{env\.([^{}]+)\}")


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Run the command.

    :param parser: empty; it ends the process when a flag is wrong.
    :param words: what follows ``convert``.
    :returns: exit status.
    """
    parser.description, parser.formatter_class = _DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a Caddyfile, or a file with NAME=VALUE lines"
    )
    parser.add_argument("--toml", action="store_true", help="print the file that --config names")
    parser.add_argument("--secrets", action="store_true", help="print the keys, too")
    options = parser.parse_args(words)
    try:
        conversion = convert({name: _read(name) for name in options.files})
    except (CaddyfileError, DotenvError) as error:
        sys.stderr.write(f"mercure-hub: {error}\n")
        return 2
    write = toml if options.toml else environment
    sys.stdout.write(write(conversion, with_secrets=options.secrets))
    for note in conversion.notes:
        sys.stderr.write(f"{note}\n")
    is_complete = conversion.is_complete and (options.toml or not conversion.issuers)
    return 0 if is_complete else 1


def convert(texts: Mapping[str, str]) -> Conversion:
    """Turn files into settings.

    :param texts: contents by name; which kind each is follows from its contents.
    :raises CaddyfileError: one is neither.
    :raises DotenvError: a line is no assignment.
    """
    conversion = Conversion()
    found: dict[str, Variable] = {}
    files: list[list[Line]] = []
    for name, text in texts.items():
        lines = lines_of(text, Path(name).name)
        if is_environment(lines):
            found |= parse_environment(lines, conversion.left)
        else:
            files.append(lines)
    used: set[str] = set()
    for lines in files:
        used |= _take_caddyfile(conversion, lines, found)
    settings.take_variables(conversion, found, frozenset(used))
    for address in conversion.addresses[:1]:
        settings.take_address(conversion, *address)
    conversion.check_keys()
    return conversion


def _take_caddyfile(conversion: Conversion, lines: Sequence[Line], found: Mapping[str, Variable]) -> set[str]:
    """:returns: names of the variables that stood in it."""

    def missing(name: str, location: str) -> None:
        conversion.note(location, f"{{${name}}}", _NO_VALUE)

    text = "\n".join(line.text for line in lines)
    used = {name for name in found if f"{{${name}}}" in text or f"{{${name}:" in text}
    used |= {name for name in _IN_ENVIRONMENT.findall(text) if name in found}
    blocks: list[tuple[Directive, Directive]] = []
    for number, top in enumerate(_sites(parse(substitute(lines, found, missing)))):
        if not top.words and number == 0:  # the global options
            for option in top.block:
                settings.take_option(conversion, option)
        elif top.has_block:
            blocks += [(top, directive) for directive in _hubs(conversion, top)]
        else:
            conversion.left(top.location, top.name, "stands outside of a site")
    for number, (top, directive) in enumerate(blocks):
        if number:
            conversion.left(directive.location, "mercure", _SECOND)
            continue
        Directives(conversion, found).take(directive.block)
        conversion.addresses.append((top.name.rstrip(","), top.location, "site"))
        for other in top.arguments:
            conversion.left(top.location, other, "is a further address; see MERCURE_ALLOWED_URLS")
    if not blocks:
        location = lines[0].location if lines else "the file"
        raise CaddyfileError(f"{location}: this file has neither a mercure block nor lines NAME=VALUE")
    return used


def _sites(tops: Sequence[Directive]) -> list[Directive]:
    """The blocks of a file. A single site may have no braces: then all that follows is in it."""
    for number, top in enumerate(tops):
        if not top.words or top.name.startswith(("(", "&(")):  # global options, snippets, named routes
            continue
        if top.has_block and top.name not in _IN_SITES:
            return list(tops)
        words: list[str] = []
        end = number
        while end < len(tops) and not tops[end].has_block and (end == number or words[-1].endswith(",")):
            words += tops[end].words  # further addresses stand behind a comma, on the next line too
            end += 1
        return [
            *tops[:number],
            Directive(tuple(words) or ("",), top.location, list(tops[end:]), has_block=True),
        ]
    return list(tops)


def _hubs(conversion: Conversion, outer: Directive) -> list[Directive]:
    """The ``mercure`` blocks in a site; everything beside them is named."""
    found: list[Directive] = []
    for one in outer.block:
        if one.name == "mercure":
            found.append(one)
        elif one.name in _ROUTES:
            found += _hubs(conversion, one)
        else:
            settings.take_beside(conversion, one)
    return found


def _read(name: str) -> str:
    """:raises CaddyfileError: it cannot be read, or is not text."""
    try:
        content = (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())[: _MOST_BYTES + 1]
    except OSError as error:
        raise CaddyfileError(f"{name}: cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise CaddyfileError(f"{name}: is larger than {_MOST_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise CaddyfileError(f"{name}: is not UTF-8") from None
