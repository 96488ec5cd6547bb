"""Command lines, settings and targets of make that the pages name are those that there are."""

from __future__ import annotations

import pkgutil
import re
import shlex
from collections.abc import Container, Iterator
from pathlib import Path

import click
import pytest

import mercure_hub.cli
from docs.website import commands, problems
from docs.website.commands import click_commands, hub_commands, hub_parser, leaves
from flask_mercure.cli import mercure
from flask_mercure.config.settings import KEYS
from mercure_hub.config.settings import CONFIG, TABLE
from tests.docs.markdown import PAGES, ROOT, blocks, inline_code

SHELL = ("", "sh", "console", "bash")
_ALTERNATIVES = re.compile(r"\S*\w\|\w\S*")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
OF_THE_TESTS = {"MERCURE_CHECKOUT"}  # variables of make foreign
OF_OTHERS = {"comparison.md", "coming-from.md"}  # they name settings of other hubs and extensions
_PREFIXES = {"exec", "sudo", "export", "command", "env", "time"}


def simple_commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell's text: without assignments, one for each alternative of ``a|b``."""
    for line in text.replace("\\\n", " ").splitlines():
        alternatives = _ALTERNATIVES.search(line) if "'" not in line and '"' not in line else None
        chosen = alternatives[0].split("|") if alternatives else [""]
        for one in chosen:
            yield from _split(line.replace(alternatives[0], one) if alternatives else line)


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|<>")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # prose, such as an apostrophe
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("();&|<>"):
            while command and (_ASSIGNMENT.match(command[0]) or command[0] in _PREFIXES or command[0] == "$"):
                command.pop(0)
            if command:
                yield command
            command = []
        else:
            command.append(word)


def check(words: list[str], *, mentioned: bool) -> bool:
    """Have a command parsed by its own parser.

    :param mentioned: it stands in a sentence and may lack its arguments.
    :returns: whether it is one of ours.
    """
    name = Path(words[0]).name
    if name == "flask" and "mercure" in words:
        place = words.index("mercure")
        options = words[1:place]
        if options and options[0] == "--app" and options[1].startswith("examples/"):
            assert (ROOT / f"{options[1]}.py").is_file(), options
        _check_click(words[place + 1 :], mentioned=mentioned)
        return True
    if name == "mercure-hub":
        _check_hub(words[1:], mentioned=mentioned)
        return True
    return False


def _check_flags(words: list[str], known: Container[str]) -> None:
    for word in words:
        assert not word.startswith("--") or word.partition("=")[0] in known, f"there is no {word}"


def _check_click(words: list[str], *, mentioned: bool) -> None:
    context, rest = click.Context(mercure, info_name="flask mercure"), words
    while rest and rest[0] != "..." and isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, rest)
        assert command is not None
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=name)
        elif name == "hub":
            _check_hub(rest, mentioned=mentioned)
            return
        elif mentioned:
            _check_flags(rest, {flag for option in command.params for flag in option.opts} | {"--help"})
            return
        else:
            with command.make_context(name, list(rest), parent=context):
                return


def _check_hub(words: list[str], *, mentioned: bool) -> None:
    if words and words[0] in hub_commands():
        parser = hub_parser(words[0], None if mentioned else words[1:])
        _check_flags(words[1:], {flag for leaf in leaves(parser) for flag in leaf._option_string_actions})
        return
    if words in ([], ["..."], ["settings"], ["--help"], ["--version"]):
        return
    if words[0] == "check":
        words = [word for word in words[1:] if word != "--quiet"]
    _, unknown = mercure_hub.cli._parser().parse_known_args(words)
    assert not unknown, f"mercure-hub has no {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_are_those_of_the_parsers(page: Path) -> None:
    for block in blocks():
        if block.page == page and block.language in SHELL and page.name != "commands.md":
            for command in simple_commands(block.code):
                try:
                    check(command, mentioned=False)
                except (click.UsageError, SystemExit, AssertionError) as error:
                    pytest.fail(f"{block}: {shlex.join(command)}: {error}")
    for code in inline_code(page):
        for command in simple_commands(code):
            try:
                check(command, mentioned=True)
            except (click.UsageError, SystemExit, AssertionError) as error:
                pytest.fail(f"{page.name}: {code}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "flask mercure publish a --secret",
        "flask mercure nothing",
        "FLASK_X=1 flask --app shop mercure outbox list|nothing",
        "TOKEN=$(flask --app shop mercure token --write a)",
        "/opt/mercure/bin/mercure-hub --no-such-flag",
        "flask mercure hub --no-such-flag",
        "mercure-hub keys --dsa",
        "mercure-hub install --print nothing > file",
    ],
)
def test_a_wrong_line_is_noticed(line: str) -> None:
    with pytest.raises((click.UsageError, SystemExit, AssertionError)):
        [check(command, mentioned=False) for command in simple_commands(line)]


@pytest.mark.parametrize(
    "code", ["flask mercure publish --secret", "mercure-hub install --copy", "flask mercure x"]
)
def test_a_wrong_mention_is_noticed(code: str) -> None:
    with pytest.raises((click.UsageError, SystemExit, AssertionError)):
        [check(command, mentioned=True) for command in simple_commands(code)]


def test_there_are_lines_to_look_at() -> None:
    found = [
        command
        for block in blocks()
        if block.language in SHELL
        for command in simple_commands(block.code)
        if Path(command[0]).name in ("flask", "mercure-hub")
    ]
    assert len(found) > 40


def test_settings_that_the_pages_name_exist() -> None:
    known = {setting.variable for setting in TABLE} | {CONFIG.variable}
    known |= OF_THE_TESTS | set(KEYS)
    for page in PAGES:
        if page.name in OF_OTHERS:
            continue
        for name in re.findall(r"MERCURE_[A-Z]+(?:_[A-Z]+)*\b(?!_)", page.read_text(encoding="utf-8")):
            assert name in known, f"{page.name}: {name}"


DOTTED = [
    (page, code)
    for page in PAGES
    for code in inline_code(page)
    if re.fullmatch(r"(?:flask_mercure|hub(?!\.env|\.example)|pytest_mercure)(?:\.\w+)+", code)
]


@pytest.mark.parametrize(("page", "name"), DOTTED, ids=lambda value: str(getattr(value, "name", value)))
def test_python_names_of_the_pages_exist(page: Path, name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


def test_modules_that_the_architecture_names_exist() -> None:
    files = [
        str(path.relative_to(ROOT))
        for part in ("hub", "flask_mercure")
        for path in (ROOT / part).rglob("*.py")
    ]
    for code in inline_code(ROOT / "docs" / "architecture.md"):
        if re.fullmatch(r"[\w/]+\.py", code) and not code.startswith(("tests/", "bench/", "chaos/")):
            assert any(f"/{file}".endswith(f"/{code}") for file in files), code


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    texts = [(block.page, block.code) for block in blocks() if block.language in SHELL]
    texts += [(page, code) for page in PAGES for code in inline_code(page)]
    for page, text in texts:
        for words in simple_commands(text):
            if words[0] == "make":
                named = {word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)}
                assert named <= targets, f"{page.name}: {words}"


def test_the_page_of_commands_has_each_of_them_and_is_what_the_parsers_say() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert text == commands.page(), "run make docs"
    for context in click_commands():
        assert f"### {context.command_path}\n" in text
    assert str(ROOT) not in text


def test_the_page_of_problems_is_what_the_sections_say() -> None:
    troubleshooting = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    text = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8")
    assert text == problems.page(troubleshooting), "run make docs"
